"""The OpenAPI document before the tools that people check and use such documents with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.client_environments import TSC, node, version, workspace

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


def test_redocly_finds_no_error(document: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("client", version("@redocly/cli", None))
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    assert json.loads(node("redocly", "lint", "--format", "json", document, **quiet))["totals"]["errors"] == 0


@pytest.mark.parametrize("package", ["@scalar/openapi-parser", "@seriousme/openapi-schema-validator"])
def test_validators_find_nothing(package: str, document: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("client", version(package, None))
    printed = node("node", workspace("javascript") / "validate.mjs", package, document)
    assert json.loads(printed) == []


def test_orval_makes_a_client_that_compiles(document: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("client", version("orval", None))
    folder = workspace("typescript")
    node("orval", "--input", document, "--output", "orval.ts", "--client", "fetch", cwd=folder)
    node(*TSC, "orval.ts", cwd=folder)
    assert "export const submitJob = async" in (folder / "orval.ts").read_text()
