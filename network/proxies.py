"""The environment's proxies: which one an address is reached by, and what is wrong with it.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read in capitals or not, small letters first. Programs
differ: curl reads `http_proxy` in small letters alone, httpx stumbles over `NO_PROXY=[::1]`, boto3 knows neither
networks in it nor `ALL_PROXY`, and all of them ask a proxy even for this machine's loopback. So libraries are told
which proxy to use, and don't look by themselves. What any of them understands is understood here.
"""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_LOOPBACK = re.compile(r"(.+\.)?localhost|localhost\.localdomain|ip6-(localhost|loopback)")  # RFC 6761; /etc/hosts

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyError(ValueError):
    """A proxy that can't be used; the message names the variable, and no more of what it holds than `place` tells."""


@dataclass(frozen=True)
class Variable:
    """A variable of the environment that names a proxy; as text what may be told of it.

    Attributes:
        name: as it is spelled in the environment.
        value: what it holds.
    """

    name: str
    value: str

    def __str__(self) -> str:
        told = place(self.url) or "…"
        return f"{self.name}={told if '://' in self.value else told.removeprefix('http://')}"

    @property
    def url(self) -> str:
        """The proxy's address, credentials included."""
        scheme, separator, rest = self.value.partition("://")
        return f"{scheme.lower()}://{rest}" if separator else f"http://{scheme.removeprefix('//')}"

    @property
    def is_socks(self) -> bool:
        """Whether the proxy speaks SOCKS."""
        return self.url.startswith("socks")

    def check(self) -> None:
        """Return if it names a proxy that can be used.

        Raises:
            ProxyError: it doesn't.
        """
        scheme, _, rest = self.url.partition("://")
        # Behind the host nothing has a meaning, and libraries repeat it in their errors.
        if scheme not in SCHEMES or place(self.url) is None or re.search("[/?#].", rest):
            forms = "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
            raise ProxyError(
                f"{self.name}=…: names no proxy: write {forms}, with @, : and / in a password percent-encoded"
            )


def place(url: str) -> str | None:
    """Return scheme, host and port of a URL, which hold no secret, and `***@` for credentials; None: it has no host.

    Nor has one in which a raw `/`, `?` or `#` may be a password's: what looks like the host is a part of that.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its text may be a part of a password
        return None
    credentials, at, server = parts.netloc.rpartition("@")
    one_host = (_NAME.fullmatch(host) or _address(host)) and port != 0 and "@" not in credentials
    if not one_host or url.count("@") > len(at) or not url.isprintable() or " " in url:
        return None
    return f"{parts.scheme}://{at and '***@'}{server}"


def proxy_for(url: str) -> Variable | None:
    """Return what names the proxy that an address is reached by; None: it is reached directly.

    This machine's loopback always is, and so is what can't be read: whoever connects to it says what is wrong.

    Raises:
        ProxyError: what is named can't be used.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if _is_here(host) or _is_excepted(host, port):
        return None
    proxy = _find(f"{parts.scheme}_proxy") or _find("all_proxy")
    if proxy:
        proxy.check()
    return proxy


def through(url: str) -> str:
    """Return the words by which a message names the proxy that stands before an address; empty where none does."""
    try:
        proxy = proxy_for(url)
    except ProxyError:
        return ""
    return f" through the proxy {proxy}" if proxy else ""


def all_variables() -> list[str]:
    """Return what the environment says about proxies, as far as it may be told, for those who read it by themselves.

    Raises:
        ProxyError: a proxy that is named can't be used.
    """
    proxies = [found for scheme in ("http", "https", "all") if (found := _find(f"{scheme}_proxy"))]
    for proxy in proxies:
        proxy.check()
    exceptions = _find("no_proxy")
    shown = [f"{exceptions.name}={'…' if '@' in exceptions.value else exceptions.value}"] if exceptions else []
    return [*map(str, proxies), *shown]


def _find(name: str) -> Variable | None:
    """The variable of a name in small letters; one in capitals where there is none. An empty one says: no proxy."""
    spellings = sorted((other for other in os.environ if other.lower() == name), key=lambda other: other != name)
    value = os.environ[spellings[0]].strip() if spellings else ""
    return Variable(spellings[0], value) if value else None


def _is_here(host: str) -> bool:
    address = _address(host)
    return bool(_LOOPBACK.fullmatch(host)) or (address is not None and (address.is_loopback or address.is_unspecified))


def _is_excepted(host: str, port: int) -> bool:
    exceptions = _find("no_proxy")
    entries = re.split(r"[,\s]+", exceptions.value.lower()) if exceptions else []
    return any(_covers(entry, host, port) for entry in entries if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `NO_PROXY` means a host: a name (and those below it), an address, a network, one port of it.

    What is nothing of that means none.
    """
    entry = entry.rpartition("://")[2]
    if entry == "*":
        return True
    if match := re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry):
        if int(match[2]) != port:
            return False
        entry = match[1]
    address = _address(host)
    if address:
        try:
            return address in ipaddress.ip_network(re.sub(r"[][]", "", entry), strict=False)
        except ValueError:
            return False
    name = entry.removeprefix("*").strip(".")
    return name != "" and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # as the system reads them, too: 127.1, 0x7f000001
        except (OSError, ValueError):
            return None
    return getattr(address, "ipv4_mapped", None) or address
