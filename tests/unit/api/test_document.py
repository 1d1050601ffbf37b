"""The OpenAPI document, as tools that know nothing of this service take it: with keys and without."""

from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import create_app
from api.http.auth import OPEN_PATHS
from jobs.keys import KeysFile
from jobs.settings import Settings

OPEN = create_app(Settings()).openapi()


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, Any]:
    KeysFile(tmp_path / "keys.json").create("alice")
    return create_app(Settings(api_keys_file=tmp_path / "keys.json")).openapi()


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(OPEN).validate()


def test_it_is_valid_with_keys(guarded: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(guarded).validate()


def test_it_tells_where_the_service_is() -> None:
    assert OPEN["servers"] == [{"url": "/"}]


def test_without_keys_nothing_asks_for_one() -> None:
    assert "securitySchemes" not in OPEN["components"]
    assert not any("security" in operation for path in OPEN["paths"].values() for operation in path.values())


def test_with_keys_all_ask_for_one_but_what_is_open(guarded: dict[str, Any]) -> None:
    for path, operations in guarded["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == (None if path in OPEN_PATHS else [{"HTTPBearer": []}]), path
