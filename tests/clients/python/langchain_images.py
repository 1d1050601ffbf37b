"""LangChain's wrapper of DALL·E; it prints the pictures' URLs as a JSON list."""

import json

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

print(json.dumps([DallEAPIWrapper(model="dall-e-3", size="256x256").run("a red circle on white")]))
