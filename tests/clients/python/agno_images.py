"""agno's tool of DALL·E, as an agent calls it; it prints the pictures' URLs as a JSON list."""

import json

from agno.agent import Agent
from agno.tools.dalle import DalleTools

result = DalleTools(size="256x256").create_image(Agent(), "a red circle on white")
print(json.dumps([image.url for image in result.images or []]))
