"""The embedded stack: what it serves and to whom, what survives, and that it leaves nothing behind."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from cli.stack import Stack, StackError, ports
from support.s3_access import key_pair, s3_client
from support.waiting import wait_until


def s3_of(stack: Stack) -> Any:
    return s3_client(stack.s3_url, *key_pair(stack), attempts=10)


def everyone(pids: dict[str, Any]) -> list[int]:
    return [pids["valkey"], pids["s3"], *([pids["api"], *pids["workers"]] if "api" in pids else [])]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers that tests here may kill, of a user who hides nothing by himself."""
    folder = tmp_path_factory.mktemp("own")
    for kept in (folder, folder / "valkey"):
        kept.mkdir(exist_ok=True)
        kept.chmod(0o775)
    stack, usual = Stack(folder, services=False), os.umask(0)
    try:
        stack.start()
    finally:
        os.umask(usual)
    yield stack
    stack.stop()


def test_s3_takes_signatures_and_presigned_urls_only(servers: Stack) -> None:
    client = s3_of(servers)
    client.put_object(Bucket="zimage", Key="test stack/é.png", Body=b"png")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "zimage", "Key": "test stack/é.png"})
    assert httpx.get(url).content == b"png"
    unsigned = url.partition("?")[0]
    assert httpx.get(unsigned).status_code == 403
    assert httpx.put(unsigned, content=b"mine").status_code == 403
    assert httpx.get(f"{servers.s3_url}/zimage").status_code == 403
    assert httpx.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    stranger = s3_client(servers.s3_url, "stranger", "strange")
    with pytest.raises(client.exceptions.ClientError, match="InvalidAccessKeyId"):
        stranger.list_objects_v2(Bucket="zimage")


def test_the_bucket_takes_many_small_objects(servers: Stack) -> None:
    client = s3_of(servers)
    for index in range(60):
        client.put_object(Bucket="zimage", Key=f"many/{index}", Body=os.urandom(20_000))
    assert client.list_objects_v2(Bucket="zimage", Prefix="many/")["KeyCount"] == 60


@pytest.mark.parametrize("name", ["servers", "stack"])
def test_nothing_listens_beyond_loopback(name: str, request: pytest.FixtureRequest) -> None:
    running: Stack = request.getfixturevalue(name)
    listening = [
        connection.laddr.ip
        for pid in everyone(running.pids())
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}


def listening(pid: int) -> set[int]:
    connections = psutil.Process(pid).net_connections("inet")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_no_other_user_of_the_machine_is_answered_by_valkey_or_behind_s3(own: Stack) -> None:
    """Every port that the servers have open, S3's own apart (see above), by what anybody can say."""
    s3_of(own).put_object(Bucket="zimage", Key="secret.png", Body=b"a picture")
    for port in listening(own.pids()["valkey"]):
        with redis.Redis(port=port, retry=None) as stranger:
            for words in ("INFO", "KEYS *", "CONFIG GET *", "MONITOR", "SYNC"):
                with pytest.raises(redis.AuthenticationError):
                    stranger.execute_command(*words.split())
    behind = listening(own.pids()["s3"]) - {int(own.s3_url.rpartition(":")[2])}
    assert len(behind) >= 8  # HTTP and gRPC of master, volume, filer and admin
    strangers = ssl.create_default_context()
    strangers.check_hostname, strangers.verify_mode = False, ssl.CERT_NONE
    with httpx.Client(verify=strangers) as client:
        for port in behind:
            for path in ("/", "/buckets/zimage/secret.png", "/dir/status", "/status", "/stats/counter", "/metrics"):
                for scheme in ("http", "https"):
                    try:
                        answer = client.get(f"{scheme}://127.0.0.1:{port}{path}")
                    except httpx.TransportError:  # not by its protocol, or not without its certificate
                        continue
                    assert answer.text == "Client sent an HTTP request to an HTTPS server.\n", (port, path)
            with pytest.raises(OSError, match=r"(?i)certificate|reset"):  # gRPC, which says more after the handshake
                read_tls(strangers, port)


def read_tls(context: ssl.SSLContext, port: int) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as encrypted,
    ):
        return encrypted.read(1)


def test_no_other_user_of_the_machine_reads_files_sockets_or_arguments(own: Stack) -> None:
    secrets = {own.redis_url.partition("@")[0].rpartition(":")[2], *key_pair(own)}
    for pid in (own.pids()["valkey"], own.pids()["s3"]):
        process = psutil.Process(pid)
        assert not [word for word in process.cmdline() for secret in secrets if secret in word]
        sockets = [Path(process.cwd(), each.laddr) for each in process.net_connections("unix") if each.laddr]
        assert [path for path in sockets if path.exists() and path.stat().st_mode & 0o077] == []
    open_to_others = [path for path in own.data_dir.iterdir() if path.stat().st_mode & 0o077]
    assert {path.name for path in open_to_others} <= {"ports.json"}


def test_the_directory_tells_who_runs_where_and_keeps_its_secrets(stack: Stack) -> None:
    assert json.loads((stack.data_dir / "pids.json").read_text()) == stack.pids()
    assert set(stack.pids()) == {"valkey", "s3", "api", "workers"}
    assert all(psutil.pid_exists(pid) for pid in everyone(stack.pids()))
    assert json.loads((stack.data_dir / "endpoints.json").read_text()) == {
        "api": stack.api_url,
        "redis": stack.redis_url,
        "s3": stack.s3_url,
        "bucket": "zimage",
        "workers": stack.worker_metrics_urls,
    }
    for path in (stack.data_dir, stack.data_dir / "credentials.json"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_valkey_refuses_to_drop_jobs(servers: Stack) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
        config = client.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save")
    assert config == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory": str(2**30),
        "maxmemory-policy": "noeviction",
        "save": "",
    }


def test_a_killed_valkey_comes_back_on_its_port_with_its_data(own: Stack) -> None:
    before = own.pids()
    with redis.Redis.from_url(own.redis_url, retry=None) as client:
        client.set("kept", "here")
        os.kill(before["valkey"], signal.SIGKILL)
        wait_until(lambda: own.pids()["valkey"] != before["valkey"])

        def answer() -> bytes | None:
            try:
                return client.get("kept")
            except redis.ConnectionError:
                return None

        wait_until(answer)
        assert answer() == b"here"
    wait_until(lambda: json.loads((own.data_dir / "pids.json").read_text()) == own.pids())
    assert own.pids()["s3"] == before["s3"]


def test_a_killed_s3_comes_back_on_its_port_with_its_data(own: Stack) -> None:
    before = own.pids()
    client = s3_of(own)
    client.put_object(Bucket="zimage", Key="kept", Body=b"here")
    os.kill(before["s3"], signal.SIGKILL)
    wait_until(lambda: own.pids()["s3"] != before["s3"])

    def answer() -> bytes | None:
        try:
            return client.get_object(Bucket="zimage", Key="kept")["Body"].read()
        except (client.exceptions.ClientError, OSError):
            return None

    wait_until(answer)
    assert answer() == b"here"
    client.put_object(Bucket="zimage", Key="more", Body=b"room")


def test_a_second_stack_on_the_same_directory_is_refused(own: Stack) -> None:
    with pytest.raises(StackError, match=f"in use by process {os.getpid()}: stop that one, or choose another --data"):
        Stack(own.data_dir, services=False).start()
    with redis.Redis.from_url(own.redis_url) as client:
        assert client.ping()


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 0), (0o755, 1)])
def test_a_directory_that_others_may_have_filled_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int
) -> None:
    tmp_path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + owner)
    with pytest.raises(StackError, match=f"other users can put files into {tmp_path}: .* choose another --data"):
        Stack(tmp_path, services=False).start()
    assert list(tmp_path.iterdir()) == []


def test_data_and_addresses_survive_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "a folder with a long name, longer than a socket's path may be" / ("x" * 60)
    data.mkdir(parents=True)
    older = {"AWS_ACCESS_KEY_ID": "older", "AWS_SECRET_ACCESS_KEY": "as 0.2.0 wrote it"}
    (data / "credentials.json").write_text(json.dumps(older))
    with Stack(data, services=False) as first:
        assert first.environ().items() >= older.items()
        with redis.Redis.from_url(first.redis_url) as client:
            client.set("kept", "here")
        s3_of(first).put_object(Bucket="zimage", Key="kept", Body=b"here")
        gone = everyone(first.pids())
    assert not any(psutil.pid_exists(pid) for pid in gone)
    with Stack(data, services=False) as second:
        assert second.environ() == first.environ()
        with redis.Redis.from_url(second.redis_url) as client:
            assert client.get("kept") == b"here"
        assert s3_of(second).get_object(Bucket="zimage", Key="kept")["Body"].read() == b"here"


def test_a_port_that_is_taken_before_its_part_has_started_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assign, robbers = ports.assign, [socket.socket()]

    def robbed(memory: Path, names: Iterable[str]) -> dict[str, int]:
        assigned = assign(memory, names)
        if robbers:
            robber = robbers.pop()
            held.enter_context(robber)
            robber.bind(("127.0.0.1", assigned["filer"]))
            robber.listen()
        return assigned

    monkeypatch.setattr(ports, "assign", robbed)
    with ExitStack() as held, Stack(tmp_path, services=False) as stack:
        assert not robbers
        s3_of(stack).put_object(Bucket="zimage", Key="here", Body=b"")


def up(data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "up",
        "--port",
        "0",
        "--model",
        "tiny",
        "--data",
        str(data),
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_ended(processes: list[psutil.Process]) -> None:
    wait_until(lambda: all(ended(process.pid) for process in processes))


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def up_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


def test_up_restarts_its_parts_and_leaves_nothing_at_sigterm(up_data: Path) -> None:
    with up(up_data) as process:
        assert process.stdout
        endpoints_path, pids_path = up_data / "endpoints.json", up_data / "pids.json"
        ready = process.stdout.readline()
        endpoints = json.loads(endpoints_path.read_text())
        assert ready == f"ready {endpoints['api']}\n"
        assert httpx.get(f"{endpoints['api']}/readyz").status_code == 200

        before = json.loads(pids_path.read_text())
        assert {child.pid for child in psutil.Process(process.pid).children()} == set(everyone(before))
        for pid in (before["api"], before["workers"][0]):
            os.kill(pid, signal.SIGKILL)

        def is_ready(part: str) -> bool:
            try:
                return httpx.get(f"{part}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(lambda: json.loads(pids_path.read_text())["api"] != before["api"] and is_ready(endpoints["api"]))
        wait_until(lambda: json.loads(pids_path.read_text())["workers"] != before["workers"])
        wait_until(lambda: is_ready(endpoints["workers"][0].removesuffix("/metrics")))
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        rest, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == ""
    assert "api was killed by signal 9" in told
    assert told.endswith("zimage: stopped\n")
    assert all(ended(child.pid) for child in children)
    assert not pids_path.exists()
    # In order: each had its time, none was killed with its parent.
    assert "draining" in (up_data / "logs" / "worker-1.log").read_text()
    assert "ready to exit, bye bye" in (up_data / "logs" / "valkey.log").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_up_leaves_nothing_when_stopped_while_starting(up_data: Path, number: int, code: int) -> None:
    with up(up_data) as process:
        wait_until((up_data / "pids.json").exists)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 4
        process.send_signal(number)
        assert process.wait(60) == code
    wait_until_ended(children)


def test_up_leaves_nothing_when_killed_and_starts_again(up_data: Path) -> None:
    for _ in range(2):
        with up(up_data, "--workers", "0") as process:
            assert process.stdout
            assert process.stdout.readline().startswith("ready http://127.0.0.1:")
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) == 3
            process.kill()
        wait_until_ended(children)
