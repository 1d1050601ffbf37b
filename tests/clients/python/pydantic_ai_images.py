"""pydantic-ai's image generator; it prints the pictures as a JSON list."""

import base64
import json

from pydantic_ai import ImageGenerator

result = ImageGenerator("openai:gpt-image-1").generate_sync("a red circle on white")
print(json.dumps([base64.b64encode(image.content.data).decode() for image in result.images]))
