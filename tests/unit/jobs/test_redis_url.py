"""What `ZIMAGE_REDIS_URL` may say, and what is refused at start in one line that repeats no secret."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.addresses.redis_url import RedisAddress, read
from jobs.settings import Settings


@pytest.mark.parametrize(
    ("url", "place", "database"),
    [
        ("redis://127.0.0.1", "127.0.0.1:6379", 0),
        ("redis://127.0.0.1/", "127.0.0.1:6379", 0),
        ("redis://127.0.0.1:6380/3", "127.0.0.1:6380", 3),
        ("redis://127.0.0.1:6379?db=2", "127.0.0.1:6379", 2),
        ("redis://127.0.0.1:6379/2?db=2", "127.0.0.1:6379", 2),
        ("REDIS://redis_1.internal/0/", "redis_1.internal:6379", 0),
        ("redis://[::1]:6380/1", "[::1]:6380", 1),
        ("rediss://user:word@cache.example.com:6380/0", "cache.example.com:6380", 0),
        ("unix:///run/valkey.sock", "/run/valkey.sock", 0),
        ("unix://user:word@/run/my%20valkey.sock?db=4", "/run/my valkey.sock", 4),
    ],
)
def test_what_is_taken(url: str, place: str, database: int) -> None:
    address = read(url)
    assert (address.place, address.database) == (place, database)
    assert read(str(address)) == RedisAddress(**{**vars(address), "username": None, "password": None})


@pytest.mark.parametrize(
    ("written", "username", "password"),
    [
        (":pa%5Bss", None, "pa[ss"),
        (":%23%2F%3F%40%25%3A", None, "#/?@%:"),
        ("user:", "user", None),
        ("us%40er:p:w+d", "us@er", "p:w+d"),
        (":päß wörd", None, "päß wörd"),
    ],
)
def test_credentials_are_percent_decoded_once(written: str, username: str | None, password: str | None) -> None:
    address = read(f"redis://{written}@127.0.0.1/0")
    assert (address.username, address.password) == (username, password)


@pytest.mark.parametrize("said", ["none", "NONE", "CERT_NONE"])
def test_certificates_are_looked_at_unless_the_url_says_otherwise(said: str) -> None:
    plain, secure = read("redis://127.0.0.1"), read("rediss://127.0.0.1?ssl_cert_reqs=CERT_REQUIRED")
    assert plain.tls is None
    assert secure.tls == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert secure == read("rediss://127.0.0.1")
    assert secure.unverified is None

    assert "ssl_cert_reqs=none" in (read(f"rediss://127.0.0.1?ssl_cert_reqs={said}").unverified or "")
    assert "ssl_check_hostname=false" in (read("rediss://127.0.0.1?ssl_check_hostname=False").unverified or "")


RAW = r"user or password has a character .* percent-encoding"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        *((f"redis://:gEh3{raw}Imx@127.0.0.1:6379/0", RAW) for raw in "[]#/?@%"),
        ("rediss://gEh3/Im:x@127.0.0.1:6379/0", RAW),
        ("unix://:gEh3#Imx@/run/valkey.sock", RAW),
        ("redis://:gEh3%zzImx@127.0.0.1", RAW),
        ("redis://:gEh3%FFImx@127.0.0.1", RAW),  # no UTF-8
        ("redis://:gEh3\udcffImx@127.0.0.1", RAW),
        ("redis://gEh3:1/2?Imx@127.0.0.1", RAW),
        ("redis://:gEh3Imx", "host and port"),
        ("redis://:gEh3Imx@", "host and port"),
        ("redis://127.0.0.1?password=gEh3&Imx", "before an @"),
        ("unix:///run/valkey.sock?password=gEh3Imx", "before an @"),
        ("redis://:gEh3Imx@localhost:abc/0", "host and port"),
        ("redis://:gEh3Imx@localhost:70000/0", "1 to 65535"),
        ("redis://:gEh3Imx@localhost:0/0", "1 to 65535"),
        ("redis://:gEh3Imx@a..b/0", "host and port"),
        ("redis://:gEh3Imx@[::1/0", "host and port"),
        ("redis://:gEh3Imx@[nonsense]/0", "host and port"),
        ("redis://:gEh3Imx@/0", "host and port"),
        ("gEh3Imx@localhost:6379", "redis://host:6379/0"),
        ("localhost:6379", "redis://host:6379/0"),
        ("redis:127.0.0.1", "redis://host:6379/0"),
        ("redis://", "redis://host:6379/0"),
        ("", "redis://host:6379/0"),
        ("http://127.0.0.1", "redis://host:6379/0"),
        ("redis+socket:///run/valkey.sock", "unix://"),
        ("redis://127.0.0.1/zimage", "the database must be a number"),
        ("redis://127.0.0.1/-1", "the database must be a number"),
        ("redis://127.0.0.1/0#1", "the database must be a number"),
        ("redis://127.0.0.1?db=two", "the database must be a number"),
        ("redis://127.0.0.1/1?db=2", "two databases"),
        ("redis://127.0.0.1/0?protocol=3", "something else than one each of db, ssl_cert_reqs"),
        ("redis://127.0.0.1/0?socket_timeout=5", "something else than one each of db, ssl_cert_reqs"),
        ("redis://127.0.0.1?db=1&db=2", "something else than one each of db, ssl_cert_reqs"),
        ("redis://127.0.0.1?ssl_cert_reqs=none", "need rediss://"),
        ("rediss://127.0.0.1?ssl_cert_reqs=maybe", "required .* or none"),
        ("rediss://127.0.0.1?ssl_check_hostname=maybe", "true .* or false"),
        ("rediss://127.0.0.1?ssl_ca_certs=/no/where.pem", "ssl_ca_certs must name a PEM file"),
        ("rediss://127.0.0.1?ssl_certfile=/no/where.pem", "ssl_certfile and ssl_keyfile must name PEM files"),
        ("rediss://127.0.0.1?ssl_keyfile=/no/where.pem", "ssl_certfile and ssl_keyfile must name PEM files"),
        ("rediss://127.0.0.1?ssl_ca_certs=", "an option after the \\? is empty"),
        ("rediss://127.0.0.1?ssl_certfile&db=1", "an option after the \\? is empty"),
        *((f"redis://{host}", "host and port can't be read") for host in ("*", "h%41", '"h"', "h\\x", "%00", "h'")),
        ("redis://h:/0", "as in redis://host:6379/0"),
        ("redis://h:99999/0", "as in redis://host:6379/0"),
        ("unix://run/valkey.sock", "whole path: unix:///run/valkey.sock"),
        ("unix:///", "whole path: unix:///run/valkey.sock"),
        ("unix:///run/", "whole path: unix:///run/valkey.sock"),
        ("unix:///run/%00", "whole path: unix:///run/valkey.sock"),
        ("redis://127.0.0.1/0\n", "a line end"),
        ("unix:///run/valkey.sock?ssl_cert_reqs=none", "need rediss://"),
        ("sentinel://:gEh3Imx@one:26379/mymaster", "Sentinel is not spoken: name one address"),
        ("redis+sentinel://:gEh3/Imx@one:26379,two:26379/mymaster", "Sentinel is not spoken: name one address"),
        ("rediss+cluster://one:7000", "name a single primary"),
        ("redis://:gEh3Imx@one:6379,two:6379/0", "several servers: name the one that is the primary"),
        ("redis://one:6379/0;redis://two:6379/0", "several servers"),
    ],
)
def test_what_is_refused_is_told_without_any_part_of_a_secret(url: str, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(redis_url=url)
    (error,) = refused.value.errors(include_input=False)
    assert error["loc"] == ("redis_url",)
    assert re.search(told, error["msg"])
    assert "\n" not in error["msg"]
    for text in (str(refused.value), str(error)):
        assert not re.search("gEh|Eh3|Imx", text)


def test_a_secret_is_in_no_representation() -> None:
    settings = Settings(redis_url="rediss://user:gEh3Imx@127.0.0.1/0")
    for text in (repr(settings), str(settings.redis_url), repr(settings.redis_url), settings.redis_url.place):
        assert "gEh3Imx" not in text


def test_files_of_the_client_are_read_at_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nonsense")
    with pytest.raises(ValueError, match="ssl_ca_certs must name a PEM file"):
        read(f"rediss://127.0.0.1?ssl_ca_certs={broken}")
