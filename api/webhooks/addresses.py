"""Where webhooks may go: to addresses that anybody can reach, not into the networks that this process stands in.

A host is resolved once, all its addresses are looked at, and the connection goes to the very address that was looked
at: a name that points elsewhere a moment later (DNS rebinding) changes nothing. How an address is written (decimal,
octal, hex, mapped into IPv6) doesn't matter either: judged is what the system's resolver makes of it.
"""

import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Sequence

import httpx

from api.webhooks.lookups import CrowdedError, Lookup, Lookups, system_lookup

# What `is_global` calls global, at least in some of the Pythons that we run on, but nobody's place in the Internet is.
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocols of the IETF's own, and Oracle Cloud's metadata
        "2002::/16",  # 6to4: any IPv4 address, private ones too (RFC 7526 retired it)
        "192.88.99.0/24",  # 6to4 relays
        "3fff::/20",  # documentation (RFC 9637)
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.175.48.0/24",
        "2620:4f:8000::/48",
        "192.52.193.0/24",  # AMT relays (RFC 7450)
        "34.118.224.0/20",  # Services in clusters of GKE
        "168.63.129.16/32",  # Azure's metadata and agents, inside of each virtual machine's network
    )
]
_IPV6 = ipaddress.ip_network("2000::/3")  # all that is given out for the public Internet


class AddressError(httpx.ConnectError):
    """A host that webhooks may not go to, or that has no address; the message says which it is."""


class ResolverError(httpx.ConnectError):
    """Which addresses a host has can't be found out now."""


class LookupsError(httpx.ConnectError):
    """A host was not looked up, since its owner's other lookups get no answer."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public Internet's.

    Not: private, loopback, link-local, shared (CGNAT), unspecified, multicast, reserved, and IPv6 addresses that
    stand for IPv4 ones (6to4, Teredo, NAT64). An IPv4 address mapped into IPv6 is what it is in IPv4.
    """
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.version == 6 and ip not in _IPV6:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)


class Addresses:
    """Resolves hosts for webhooks.

    Args:
        allow_private: whether every address will do (`ZIMAGE_WEBHOOK_ALLOW_PRIVATE`).
        lookup: what resolves a name; blocks.
    """

    def __init__(self, *, allow_private: bool, lookup: Lookup = system_lookup) -> None:
        self._allow_private = allow_private
        self._lookups = Lookups(lookup)

    def hanging(self) -> Counter[str]:
        """Return how many lookups of each owner go on though nobody waits for them any longer."""
        return self._lookups.hanging

    async def resolve(self, url: httpx.URL, owner: str) -> Sequence[str]:
        """Return the addresses of a URL's host, in the order in which they are worth trying.

        Args:
            url: whose host.
            owner: for whom: those of one owner whose name servers don't answer hold up no other's.

        Raises:
            AddressError: one of them is not public, or there is none.
            ResolverError: no name server answers.
            LookupsError: the owner's other lookups are in the way.
        """
        host = url.raw_host.decode("ascii")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            addresses = await self._lookups.find(owner, host, port)
        except CrowdedError:
            told = f"{host} was not looked up: too many names sent before get no answer from their name servers"
            raise LookupsError(told) from None
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError) or getattr(error, "errno", None) == socket.EAI_AGAIN:
                raise ResolverError(f"{host} can't be resolved now: no name server answers") from error
            raise self._unusable(host) from error
        # All of them: with one private address among public ones a name could be sent there all the same.
        if not self._allow_private and not all(map(is_public, addresses)):
            raise self._unusable(host)
        return addresses

    def _unusable(self, host: str) -> AddressError:
        """One text whatever the reason: which names there are inside the network is nobody's business."""
        if self._allow_private:
            return AddressError(f"{host} can't be resolved: check its name")
        return AddressError(f"{host} can't be resolved to public addresses alone: webhooks go nowhere else")


class PinnedTransport(httpx.AsyncBaseTransport):
    """Sends requests to addresses that `Addresses` has looked at, under the host's name (Host header, TLS).

    A request's extension `owner` says for whom it is.

    Args:
        addresses: what resolves.
        verify: which certificates are trusted; True: the usual authorities.
    """

    def __init__(self, addresses: Addresses, verify: ssl.SSLContext | bool = True) -> None:
        self._addresses = addresses
        # A connection serves one request: the pool knows it by its address, which several hosts may share.
        self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first address of its host that can be connected to.

        Raises:
            AddressError: the host has no address that webhooks may go to.
            ResolverError: no name server answers.
            LookupsError: the owner's other lookups are in the way.
            httpx.HTTPError: none can be connected to, or what else goes wrong.
        """
        url = request.url
        failure: httpx.TransportError = AddressError(f"{url.host} has no address")
        for address in await self._addresses.resolve(url, request.extensions["owner"]):
            request.url = url.copy_with(host=address)  # the Host header was made before, from the name
            request.extensions = {**request.extensions, "sni_hostname": url.raw_host.decode("ascii")}
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        """Close what is open."""
        await self._transport.aclose()
