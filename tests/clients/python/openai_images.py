"""OpenAI's own client; it prints the pictures as a JSON list."""

import json

from openai import OpenAI

client = OpenAI()
response = client.images.generate(model="gpt-image-1", prompt="a red circle on white", size="128x128", n=10)
print(json.dumps([image.b64_json for image in response.data or []]))
