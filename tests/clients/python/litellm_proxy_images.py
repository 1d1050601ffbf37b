"""LiteLLM's proxy, asked by OpenAI's client; it prints the pictures as a JSON list."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from openai import OpenAI

KEY = f"sk-{secrets.token_hex(32)}"  # it insists on a strong one
CONFIG = """
model_list:
  - model_name: painter
    litellm_params:
      model: openai/gpt-image-1
      api_base: os.environ/OPENAI_BASE_URL
      api_key: os.environ/OPENAI_API_KEY
"""


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/readiness").is_success
    except httpx.TransportError:
        return False


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "config.yaml"
    config.write_text(CONFIG)
    where = ("--host", "127.0.0.1", "--port", str(port))
    command = (Path(sys.executable).with_name("litellm"), "--config", config, *where)
    # Its list of prices is asked of the internet, by default.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY}
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=sys.stderr) as proxy:
        try:
            while not is_ready(f"http://127.0.0.1:{port}"):
                assert proxy.poll() is None, "the proxy ended"
                time.sleep(0.2)
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY)
            response = client.images.generate(model="painter", prompt="a red circle on white", size="128x128", n=2)
        finally:
            proxy.terminate()
print(json.dumps([image.b64_json for image in response.data or []]))
