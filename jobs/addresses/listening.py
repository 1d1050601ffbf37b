"""Where API and worker listen: `::` is every address of the machine, of IPv6 and of IPv4, whichever of them it has."""

import socket

EVERYWHERE = "::"


def of_one_socket(host: str) -> str:
    """Return the address at which a server with one socket listens at all that `host` means.

    A socket at `::` is reached by IPv4 too. A kernel without IPv6 (`ipv6.disable=1`) has no such socket: there
    `0.0.0.0` is every address.
    """
    return "0.0.0.0" if host == EVERYWHERE and not socket.has_dualstack_ipv6() else host  # noqa: S104


def in_url(host: str) -> str:
    """Return an address as URLs write it."""
    return f"[{host}]" if ":" in host else host
