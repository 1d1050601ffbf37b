"""agno's tool of DALL·E, as an agent calls it, with the style that it used to send by default; it prints the pictures' URLs as a JSON list."""

import json

from agno.tools.dalle import DalleTools

result = DalleTools(size="256x256", style="vivid").create_image("a red circle on white")
print(json.dumps([image.url for image in result.images or []]))
