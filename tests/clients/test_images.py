"""Clients of OpenAI's images API, unchanged: they draw as they would at OpenAI, told where it is by the environment."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest
from PIL import Image

from support.client_environments import CLIENTS, node, run, venv, version, workspace

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Client:
    """A script with a client: it prints pictures as a JSON list, in base64 or as URLs.

    Attributes:
        script: its place in `tests/clients`.
        package: the client's.
        environment: the venv that has it; None: Node's packages.
        pictures: how many it asks for.
        side: of each, in pixels; None: it leaves that to the service.
    """

    script: str
    package: str
    environment: str | None = None
    pictures: int = 1
    side: int | None = 128


SCRIPTS = [
    Client("python/openai_images.py", "openai", "openai", pictures=10),
    Client("python/litellm_images.py", "litellm", "litellm", pictures=2),
    Client("python/litellm_proxy_images.py", "litellm", "litellm-proxy", pictures=2),
    Client("python/langchain_images.py", "langchain-community", "langchain", side=256),
    Client("python/agno_images.py", "agno", "agno", side=256),
    Client("python/haystack_images.py", "haystack-ai", "haystack"),
    Client("python/pydantic_ai_images.py", "pydantic-ai-slim", "pydantic-ai", side=None),
    Client("python/semantic_kernel_images.py", "semantic-kernel", "semantic-kernel", pictures=2, side=256),
    Client("javascript/openai.mjs", "openai", pictures=2),
    Client("javascript/ai-sdk.mjs", "ai", pictures=12),
    Client("javascript/ai-sdk-compatible.mjs", "@ai-sdk/openai-compatible", pictures=2),
    Client("javascript/langchain.mjs", "@langchain/openai", side=256),
]


@pytest.mark.parametrize("client", SCRIPTS, ids=lambda client: client.script)
def test_it_draws(client: Client, service: dict[str, str], record_property: Callable[[str, object], None]) -> None:
    record_property("client", version(client.package, client.environment))
    if client.environment:
        printed = run(venv(client.environment) / "python", CLIENTS / client.script, **service)
    else:
        folder, _, script = client.script.partition("/")
        printed = node("node", workspace(folder) / script, **service)
    pictures = [opened(text) for text in json.loads(printed.splitlines()[-1])]
    assert len(pictures) == client.pictures
    assert client.side is None or {picture.size for picture in pictures} == {(client.side, client.side)}


def opened(text: str) -> Image.Image:
    content = httpx.get(text).raise_for_status().content if text.startswith("http") else base64.b64decode(text)
    picture = Image.open(io.BytesIO(content))
    picture.load()
    assert picture.format == "PNG"
    return picture
