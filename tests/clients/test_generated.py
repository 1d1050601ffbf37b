"""Clients that are generated from the OpenAPI document: they compile, and they submit, poll, list and cancel."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.client_environments import CLIENTS, TSC, node, run, venv, version, workspace

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

Record = Callable[[str, object], None]
# By script: the generator's package, and its command.
TYPESCRIPT = {
    "openapi-fetch": (
        "openapi-typescript",
        # By default it takes each field that has a default as one that every request must have.
        ("openapi-typescript", "openapi.json", "--output", "openapi-typescript.ts", "--default-non-nullable=false"),
    ),
    "hey-api": (
        "@hey-api/openapi-ts",
        ("openapi-ts", "--input", "openapi.json", "--output", "hey-api", "--no-log-file"),
    ),
}


def test_openapi_python_client(either: dict[str, str], document: Path, tmp_path: Path, record_property: Record) -> None:
    record_property("client", version("openapi-python-client", "openapi-python-client"))
    programs = venv("openapi-python-client")
    generate = ("generate", "--path", document, "--meta", "none", "--output-path", tmp_path / "zimage_service_client")
    run(programs / "openapi-python-client", *generate, cwd=tmp_path, PATH=f"{programs}:{os.environ['PATH']}")
    # Where keys are asked for, only the client with one has the right type.
    key = either.get("ZIMAGE_API_KEY")
    client = f"AuthenticatedClient(url, token={key!r})" if key else "Client(url)"
    (tmp_path / "connection.py").write_text(
        "from zimage_service_client import AuthenticatedClient, Client\n\n"
        f"url = {either['ZIMAGE_URL']!r}\nclient = {client}\n"
    )
    script = CLIENTS / "python" / "generated.py"
    # The types inside of what is generated are its generator's matter, those of what calls it are the user's.
    check = ("--strict", "--follow-imports", "silent", "--cache-dir", os.devnull)
    run(sys.executable, "-m", "mypy", *check, script, cwd=tmp_path, MYPYPATH=str(tmp_path))
    check_what_was_done(run(programs / "python", script, PYTHONPATH=str(tmp_path)))


@pytest.mark.parametrize("script", TYPESCRIPT)
def test_typescript(script: str, either: dict[str, str], document: Path, record_property: Record) -> None:
    package, command = TYPESCRIPT[script]
    record_property("client", version(package, None))
    folder = workspace("typescript")
    shutil.copy(document, folder)
    node(*command, cwd=folder)
    node(*TSC, f"{script}.ts", cwd=folder)
    check_what_was_done(node("node", folder / f"{script}.js", **either))


def check_what_was_done(printed: str) -> None:
    told = json.loads(printed)
    assert httpx.get(told.pop("image")).content.startswith(b"\x89PNG")
    assert told == {"status": "succeeded", "listed": True, "canceled": True}
