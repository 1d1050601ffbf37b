"""`ZIMAGE_REDIS_URL`: the one reader of it, for redis-py and for Celery, which read such a URL differently."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from jobs.addresses.servers import authority
from network.certificates import bundle

PORT = 6379
EXAMPLE = "redis://host:6379/0"
# What redis-py and Celery both know. The files are of the client: whom it trusts, and who it is.
OPTIONS = ("db", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_RAW = re.compile(r"[\[\]/?#@]|%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis is, who asks it, and how it is known to be the right one.

    `host` and `port` are of a TCP connection, `socket` is the path of a Unix socket, "" without. `tls` are redis-py's
    options of an encrypted connection (`ssl_…`), None without.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    socket: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """Where it is, as people are told it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.socket or f"{host}:{self.port}"

    @property
    def unverified(self) -> str | None:
        """What is not looked at of a server's certificate, and why that matters; None: all is."""
        told = "ZIMAGE_REDIS_URL says {}, so {} is taken for Redis, and is sent the password"
        if self.tls and self.tls["ssl_cert_reqs"] == "none":
            return told.format("ssl_cert_reqs=none", "whoever answers")
        if self.tls and not self.tls["ssl_check_hostname"]:
            return told.format("ssl_check_hostname=false", "whoever has a certificate, of any host,")
        return None

    def __str__(self) -> str:
        """Return its URL without user, password and the options of TLS."""
        return f"unix://{quote(self.socket)}?db={self.database}" if self.socket else self._tcp_url("")

    def broker_url(self) -> str:
        """Return Celery's `broker_url`, password included; `tls` is its `broker_use_ssl`."""
        username, password = (quote(part or "", safe="") for part in (self.username, self.password))
        credentials = f"{username}:{password}@" if username or password else ""
        if self.socket:
            return f"redis+socket://{credentials}{quote(self.socket)}?virtual_host={self.database}"
        return self._tcp_url(credentials)

    def _tcp_url(self, credentials: str) -> str:
        return f"redis{'s' if self.tls else ''}://{credentials}{self.place}/{self.database}"


def read(url: str | RedisAddress) -> RedisAddress:
    """Read `redis://`, `rediss://` (with TLS) and `unix://` URLs.

    Raises:
        ValueError: it is none of them, or says what redis-py and Celery do not both understand.
    """
    if isinstance(url, RedisAddress):
        return url
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    _refuse_other_kinds(scheme)
    if not rest or scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must start with redis:// or rediss:// or unix://, as in redis://host:6379/0")
    # A raw / ? or # in a password would end it for a usual parser: so whatever is before the last @ is looked at first.
    credentials, _, place = rest.rpartition("@")
    username, password = _credentials(credentials)
    place, _, query = place.partition("?")
    options = _options(query)
    tls = _tls(scheme, options)
    if scheme == "unix":
        socket = unquote(place)
        if not re.fullmatch("/.*[^/]", socket) or not socket.isprintable():
            raise ValueError("must name a socket by its whole path: unix:///run/valkey.sock?db=0")
        database = _database(options.get("db", ""))
        return RedisAddress(socket=socket, database=database, username=username, password=password)
    if re.search(r"[,;]", place):
        raise ValueError("names several servers: name the one that is the primary: redis://host:6379/0")
    server, _, path = place.partition("/")
    host, port = authority(server, EXAMPLE)
    named = {text for text in (path.rstrip("/"), options.get("db")) if text}
    if len(named) > 1:
        raise ValueError("names two databases, one after the / and one as db: name one: redis://host:6379/0")
    return RedisAddress(host, port or PORT, "", _database("".join(named)), username, password, tls)


def _refuse_other_kinds(scheme: str) -> None:
    if "sentinel" in scheme:
        advice = "name one address that follows the primary: a virtual IP or a TCP proxy"
        raise ValueError(f"Sentinel is not spoken: {advice} (docs/reliability.md)")
    if "cluster" in scheme:
        raise ValueError("Redis Cluster is not supported: name a single primary (docs/reliability.md)")


def _credentials(text: str) -> tuple[str | None, str | None]:
    if _RAW.search(text) or not text.isprintable() or "\ufffd" in unquote(text):
        raise ValueError(
            "user or password has a character that means something else in a URL (one of [ ] / ? # @ %), or none that "
            "can be printed: write it in percent-encoding, such as %23 for #"
        )
    username, _, password = text.partition(":")
    return unquote(username) or None, unquote(password) or None


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if options.keys() & {"username", "password"}:
        raise ValueError(
            "user and password belong before an @: redis://user:…@host:6379/0, unix://user:…@/run/valkey.sock"
        )
    if options.keys() - set(OPTIONS) or len(options) < len(pairs):
        raise ValueError(f"after the ? stands something else than one each of {', '.join(OPTIONS)}: leave it out")
    if not all(options.values()):
        raise ValueError("an option after the ? is empty: give it a value, or leave it out")
    return options


def _database(text: str) -> int:
    if not re.fullmatch("[0-9]{0,9}", text):
        raise ValueError("the database must be a number: redis://host:6379/0")
    return int(text or 0)


def _tls(scheme: str, options: Mapping[str, str]) -> dict[str, Any] | None:
    """Return redis-py's options; those that Celery spells otherwise (`CERT_NONE`) are read, too."""
    if scheme != "rediss":
        if any(name.startswith("ssl_") for name in options):
            raise ValueError("the ssl_… options need rediss://, which is Redis with TLS")
        return None
    verified = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verified not in ("required", "none"):
        raise ValueError("ssl_cert_reqs must be required (so it is by default) or none, which trusts any certificate")
    named = options.get("ssl_check_hostname", "true").lower()
    if named not in ("true", "false"):
        raise ValueError("ssl_check_hostname must be true (so it is by default) or false")
    files = {name: options[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if name in options}
    _check_files(**files)
    return {"ssl_cert_reqs": verified, "ssl_check_hostname": named == "true", **files}


def _check_files(ssl_ca_certs: str = "", ssl_certfile: str = "", ssl_keyfile: str = "") -> None:
    if ssl_ca_certs:
        try:
            bundle(Path(ssl_ca_certs))
        except ValueError:
            raise ValueError("ssl_ca_certs must name a PEM file of certificates") from None
    if ssl_certfile or ssl_keyfile:
        try:
            # Without a password, or the terminal would be asked for one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(ssl_certfile, ssl_keyfile or None, password="")
        except (OSError, ValueError):
            raise ValueError(
                "ssl_certfile and ssl_keyfile must name PEM files of a certificate and of its key, unencrypted"
            ) from None
