"""How the clients reach an address: by the proxy that the environment names for it, or directly."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from network.proxies import ProxyError, Variable, proxy_for


class Transport(httpx.BaseTransport):
    """Sends each request on its way; raises `network.proxies.ProxyError` where a proxy is named that can't be used."""

    def __init__(self) -> None:
        self._ways: dict[str | None, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (httpx)."""
        proxy = proxy_for(str(request.url))
        url = proxy.url if proxy else None
        with _socks_errors_told(proxy):
            way = self._ways.get(url) or self._ways.setdefault(url, httpx.HTTPTransport(proxy=url))
            return way.handle_request(request)

    def close(self) -> None:
        """Close the connections (httpx)."""
        for way in self._ways.values():
            way.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """`Transport` for asyncio."""

    def __init__(self) -> None:
        self._ways: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (httpx)."""
        proxy = proxy_for(str(request.url))
        url = proxy.url if proxy else None
        with _socks_errors_told(proxy):
            way = self._ways.get(url) or self._ways.setdefault(url, httpx.AsyncHTTPTransport(proxy=url))
            return await way.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections (httpx)."""
        for way in self._ways.values():
            await way.aclose()


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
