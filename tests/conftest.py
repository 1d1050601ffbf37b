"""The embedded stack for every test that needs real servers; started once a session, when first asked for."""

from collections.abc import Iterator

import pytest

from cli.stack import Stack


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Valkey and SeaweedFS alone."""
    with Stack(tmp_path_factory.mktemp("servers"), services=False) as running:
        yield running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service with one worker and the bundled model."""
    with Stack(tmp_path_factory.mktemp("stack"), workers=1, model="tiny") as running:
        yield running
