"""agno's tool of DALL·E with the style that older ones always send; it prints the pictures' URLs as a JSON list."""

import json

from agno.tools.dalle import DalleTools

result = DalleTools(size="256x256", style="vivid").create_image("a red circle on white")
print(json.dumps([image.url for image in result.images or []]))
