"""What every test stands on: an environment of its own, and the embedded stack, started once when first asked for."""

import os
import signal
from collections.abc import Iterator

import pytest

from cli.stack import Stack


def pytest_configure() -> None:
    """Take away what the shell that started pytest would decide for the service and its processes."""
    # Before torch is imported: two test processes whose threads spin while they wait for each other take eight times as
    # long on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in list(os.environ):
        if name.startswith(("ZIMAGE_", "AWS_", "OTEL_")):
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a script's background; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
