"""Hosts, ports and URLs over HTTP."""

import ipaddress
import os
import re
from urllib.parse import urlsplit

from jobs.addresses.listening import EVERYWHERE

_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<name>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?")


def authority(text: str, example: str) -> tuple[str, int | None]:
    """Read `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; return the host without brackets, and the port.

    Args:
        text: what is read.
        example: a right URL, for who wrote a wrong one.

    Raises:
        ValueError: it is none of these.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or not _is_host(match):
        raise ValueError(f"host and port can't be read: write host, host:port or [IPv6]:port, as in {example}")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"the port must be 1 to 65535, as in {example}")
    return match["ipv6"] or match["name"], port


def _is_host(match: re.Match[str]) -> bool:
    try:
        if match["name"]:
            match["name"].encode("idna")  # as the system's resolver does
        else:
            ipaddress.IPv6Address(match["ipv6"])
    except ValueError:  # UnicodeError is one
        return False
    return True


def http_url(url: str) -> str:
    """Check a URL of a server that speaks HTTP; return it.

    Raises:
        ValueError: another scheme, no host, or a bad port.
    """
    scheme, _, rest = url.partition("://")
    if not rest or scheme.lower() not in ("http", "https"):
        raise ValueError("must start with http:// or https://, and name a host, as in http://host:port")
    authority(re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2], "http://host:port")
    try:
        urlsplit(url)
    except ValueError:  # a bracket among user and password
        raise ValueError("can't be read: write [ and ] in percent-encoding, as %5B and %5D") from None
    return url


def http_variable(name: str) -> None:
    """Check a variable from which a library reads such a URL by itself.

    Raises:
        ValueError: it is set to something else; the message says which variable.
    """
    if url := os.environ.get(name):
        try:
            http_url(url)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def listening_host(host: str) -> str:
    """Check an address that a port is opened on; return it. Empty: all of this machine's, which is `::`.

    Raises:
        ValueError: it holds more than an address or a name.
    """
    if not _is_plain(host):
        raise ValueError("must be an address or a name alone, such as 127.0.0.1 or ::1: the port is another setting")
    if not host:
        return EVERYWHERE
    try:
        return str(ipaddress.ip_address(host))  # one spelling of each
    except ValueError:
        return host


def host_names(names: str) -> str:
    """Check names of hosts, separated by commas; return them.

    Raises:
        ValueError: one of them is more or less than the name of a host.
    """
    if not all(_is_plain(name.strip()) for name in names.split(",")):
        raise ValueError("must be names alone, without scheme, port or *: images.example.com,images.lan")
    return names


def _is_plain(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return not re.search(r"[/:@*\[\]\s]", host)
    return True
