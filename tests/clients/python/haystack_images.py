"""Haystack's image generator; it prints the pictures as a JSON list."""

import json

from haystack.components.generators import OpenAIImageGenerator

generator = OpenAIImageGenerator(model="gpt-image-1", size="128x128")
print(json.dumps(generator.run("a red circle on white")["images"]))
