"""Semantic Kernel's text-to-image service; it prints the pictures as a JSON list."""

import asyncio
import json

from semantic_kernel.connectors.ai.open_ai import OpenAITextToImage, OpenAITextToImageExecutionSettings

service = OpenAITextToImage(ai_model_id="gpt-image-1")
settings = OpenAITextToImageExecutionSettings(n=2, quality="high", width=256, height=256)
print(json.dumps(asyncio.run(service.generate_images("a red circle on white", settings=settings))))
