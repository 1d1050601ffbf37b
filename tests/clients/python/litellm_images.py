"""litellm's image_generation; it prints the pictures as a JSON list."""

import json

import litellm

response = litellm.image_generation(model="openai/gpt-image-1", prompt="a red circle on white", size="128x128", n=2)
print(json.dumps([image.b64_json for image in response.data]))
