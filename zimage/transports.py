"""How the clients reach an address: by the proxy that the environment names for it, or directly."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from network.certificates import bundle
from network.proxies import ProxyError, Variable, proxy_for

AUTHORITIES = "SSL_CERT_FILE"  # httpx' own


class AuthoritiesError(ValueError):
    """The file that names whom to trust can't be used; the message names the variable and the file."""


Way = tuple[str | None, bool]  # the proxy's address, and whether the server shows a certificate


class Transport(httpx.BaseTransport):
    """Sends each request on its way.

    Raises `network.proxies.ProxyError` where a proxy is named that can't be used, and `AuthoritiesError`.
    """

    def __init__(self) -> None:
        self._ways: dict[Way, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (httpx)."""
        proxy = proxy_for(str(request.url))
        way = (proxy.url if proxy else None, request.url.scheme == "https")
        with _socks_errors_told(proxy):
            if way not in self._ways:
                self._ways[way] = httpx.HTTPTransport(proxy=way[0], verify=_trusted(way))
            return self._ways[way].handle_request(request)

    def close(self) -> None:
        """Close the connections (httpx)."""
        for way in self._ways.values():
            way.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """`Transport` for asyncio."""

    def __init__(self) -> None:
        self._ways: dict[Way, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (httpx)."""
        proxy = proxy_for(str(request.url))
        way = (proxy.url if proxy else None, request.url.scheme == "https")
        with _socks_errors_told(proxy):
            if way not in self._ways:
                self._ways[way] = httpx.AsyncHTTPTransport(proxy=way[0], verify=_trusted(way))
            return await self._ways[way].handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections (httpx)."""
        for way in self._ways.values():
            await way.aclose()


def _trusted(way: Way) -> ssl.SSLContext:
    """Return whom to trust on a way: nobody where nobody shows a certificate, so that no file of them is read."""
    if not way[1]:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if named := os.environ.get(AUTHORITIES):
        try:
            bundle(Path(named))
        except ValueError as error:
            raise AuthoritiesError(f"{AUTHORITIES}: {error}") from None
    return httpx.create_ssl_context()


@contextmanager
def _socks_errors_told(proxy: Variable | None) -> Iterator[None]:
    """Turn what goes wrong with SOCKS, and httpx lets through as it is, into errors of ours and of httpx."""
    try:
        yield
    except ImportError:
        raise ProxyError(f"{proxy}: SOCKS needs another package: pip install 'httpx[socks]'") from None
    except Exception as error:
        if proxy is None or not proxy.is_socks or isinstance(error, httpx.HTTPError):
            raise
        raise httpx.ProxyError(f"it does not speak SOCKS 5: {error or type(error).__name__}") from error
