"""The environment's proxies: which one an address is reached by, and what is wrong with it.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` mean here what they mean to curl, in capitals or not. Libraries
differ: httpx stumbles over `NO_PROXY=[::1]`, boto3 knows neither networks in it nor `ALL_PROXY`, and all of them ask a
proxy even for this machine's loopback. So they are told which proxy to use, and don't look by themselves.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyError(ValueError):
    """A proxy that can't be used; the message names the variable and what it holds, without credentials."""


@dataclass(frozen=True)
class Variable:
    """A variable of the environment that is about proxies; as text what it holds, without credentials.

    Attributes:
        name: as it is spelled in the environment.
        value: what it holds.
    """

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}={masked(self.value)}"

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
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port
        except ValueError:  # its text may be a part of a password
            raise self._unusable() from None
        at_signs = self.url.count("@")
        one_host = (_NAME.fullmatch(host) or _address(host)) and port != 0 and at_signs == parts.netloc.count("@") <= 1
        if parts.scheme not in SCHEMES or not one_host or not self.url.isprintable() or " " in self.url:
            raise self._unusable()

    def _unusable(self) -> ProxyError:
        forms = "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
        return ProxyError(f"{self}: names no proxy: write {forms}, with @, : and / in a password percent-encoded")


def masked(url: str) -> str:
    """Return a URL without the credentials in it, however wrong it is."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", url, flags=re.DOTALL | re.IGNORECASE)


def proxy_for(url: str) -> Variable | None:
    """Return what names the proxy that an address is reached by; None: it is reached directly.

    This machine's loopback always is.

    Raises:
        ProxyError: what is named can't be used.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower().rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
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
    except ValueError:
        return ""
    return f" through the proxy {proxy}" if proxy else ""


def all_variables() -> list[Variable]:
    """Return what the environment says about proxies, for those who read it by themselves.

    Raises:
        ProxyError: a proxy that is named can't be used.
    """
    proxies = [found for scheme in ("http", "https", "all") if (found := _find(f"{scheme}_proxy"))]
    for proxy in proxies:
        proxy.check()
    exceptions = _find("no_proxy")
    return [*proxies, exceptions] if exceptions else proxies


def _find(name: str) -> Variable | None:
    """The variable of a name in small letters; one in capitals where there is none. An empty one says: no proxy."""
    spellings = sorted((other for other in os.environ if other.lower() == name), key=lambda other: other != name)
    value = os.environ[spellings[0]].strip() if spellings else ""
    return Variable(spellings[0], value) if value else None


def _is_here(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and (address.is_loopback or address.is_unspecified))


def _is_excepted(host: str, port: int) -> bool:
    exceptions = _find("no_proxy")
    entries = re.split(r"[,\s]+", exceptions.value.lower()) if exceptions else []
    return any(_covers(entry, host, port) for entry in entries if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `NO_PROXY` means a host: a name (and those below it), an address, a network, one port of it.

    What is nothing of that means none, as curl has it.
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
        return None
    return getattr(address, "ipv4_mapped", None) or address
