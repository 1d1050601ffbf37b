"""What the tests with others' clients share: the service without keys and with one, and the record of what passed."""

import json
import platform
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack
from jobs.keys import KeysFile

Environ = dict[str, str]

# Names that clients insist on, besides the model's own.
ALIASES = "Tongyi-MAI/Z-Image-Turbo,gpt-image-1,dall-e-2,dall-e-3"
OUTCOMES = pytest.StashKey[dict[str, dict[str, object]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write each client's version and outcome to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or not report.passed:
        name = item.nodeid.removeprefix("tests/clients/")
        item.config.stash[OUTCOMES][name] = {**dict(report.user_properties), "outcome": report.outcome}
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--record", default=None)
    if file is not None:
        tests = session.config.stash[OUTCOMES]
        record = {"command": "make test-clients", "python": platform.python_version(), "tests": tests}
        file.write_text(json.dumps(record, indent=1) + "\n")


def _environ(url: str, key: str | None) -> Environ:
    """Return where clients find a service: OpenAI's own variables, and those of the scripts here."""
    openai = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key or "EMPTY"}
    return {**openai, "ZIMAGE_URL": url, **({"ZIMAGE_API_KEY": key} if key else {})}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """Where the whole service is found, with the bundled model and without keys."""
    with Stack(tmp_path_factory.mktemp("open"), model="tiny", env={"ZIMAGE_MODEL_ALIASES": ALIASES}) as stack:
        yield _environ(stack.api_url, None)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """Where one that asks for a key is found, and the key."""
    folder = tmp_path_factory.mktemp("guarded")
    key = KeysFile(folder / "keys.json").create("alice")
    with Stack(folder / "data", model="tiny", env={"ZIMAGE_API_KEYS_FILE": str(folder / "keys.json")}) as stack:
        yield _environ(stack.api_url, key)


@pytest.fixture(params=["service", "guarded"])
def either(request: pytest.FixtureRequest) -> Environ:
    """The one, then the other."""
    found: Environ = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def document(either: Environ, tmp_path: Path) -> Path:
    """Its OpenAPI document, as a file."""
    answer = httpx.get(f"{either['ZIMAGE_URL']}/openapi.json", timeout=60)
    assert answer.is_success
    file = tmp_path / "openapi.json"
    file.write_bytes(answer.content)
    return file
