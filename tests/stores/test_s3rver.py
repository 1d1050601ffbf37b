"""s3rver, an S3 for tests that is written in JavaScript: what the service asks of any S3, asked of it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from bench.chaos.accounting import wait_for
from jobs.objects.images import ImageStore
from jobs.settings import Settings
from support.client_environments import run, with_node
from support.receiving import free_port
from support.root import ROOT
from support.store_contract import put_list_get_and_remove

pytestmark = pytest.mark.clients

VERSION = "3.7.1"
FOLDER = ROOT / ".clients" / "s3rver"


@pytest.fixture(scope="session")
def program() -> Path:
    """The program, which npm installs at first use."""
    program = FOLDER / "node_modules" / ".bin" / "s3rver"
    if not program.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--no-audit", "--no-fund", "--prefix", FOLDER, f"s3rver@{VERSION}", PATH=with_node())
    return program


@pytest.fixture
def images(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageStore]:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "S3RVER")  # the one that it knows
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3RVER")
    port = free_port()
    command = [program, "--directory", tmp_path, "--port", str(port), "--configure-bucket", "zimage", "--silent"]
    images = ImageStore(Settings(s3_endpoint=f"http://127.0.0.1:{port}"), attempts=1)

    def answers() -> bool:
        with suppress(EndpointConnectionError):
            images.check()
            return True
        return False

    # The wheel's `node` is a script that starts node: a session of their own, so that both end.
    with subprocess.Popen(command, env={**os.environ, "PATH": with_node()}, start_new_session=True) as server:
        try:
            wait_for(answers, 60, "s3rver's first answer")
            yield images
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def test_s3rver_is_spoken(images: ImageStore) -> None:
    put_list_get_and_remove(images)
