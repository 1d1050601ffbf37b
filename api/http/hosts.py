"""Whose pages may call a service without keys: none but its own, whatever name they let point here."""

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import ProblemError, error_response
from jobs.keys import RESERVED
from jobs.settings import Settings
from jobs.telemetry.logs import bound


class HostGuard:
    """Refuses web pages of other sites (403), but listed ones: a browser on the same network may show any.

    A page's script reaches the service directly (it then sends its own Origin) or by a name of its own that it lets
    point here (DNS rebinding: the Host is then that name). No name can be behind an address or `localhost`; which other
    names are the service's own only the operator knows.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = frozenset(
            filter(None, (name.strip().lower() for name in (settings.allowed_hosts or "").split(",")))
        )
        self._anonymous = settings.allow_anonymous
        self._origins = frozenset(settings.cors_origins.split(",")) if settings.cors_origins else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        with bound(key=RESERVED):  # whose the request is: where there are keys `Authentication` tells
            await (error_response(scope, problem) if problem else self._app)(scope, receive, send)

    def _problem(self, headers: Headers) -> ProblemError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_served(_name(host)):
            addresses = "an address" if self._anonymous else "a loopback address"
            detail = f"without API keys call it by {addresses} or localhost, or name this host in ZIMAGE_ALLOWED_HOSTS"
            return ProblemError(403, "forbidden_host", detail)
        if origin is not None and origin.partition("://")[2] != host and origin not in self._origins:
            pages = "other sites' pages are not served, but those of ZIMAGE_CORS_ORIGINS"
            detail = f"without API keys {pages}; a proxy has to pass Host on as it came"
            return ProblemError(403, "forbidden_origin", detail)
        return None

    def _is_served(self, name: str) -> bool:
        return name in self._names or is_loopback(name) or (self._anonymous and _address(name) is not None)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's loopback."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _name(host_header: str) -> str:
    """Return the name or address in a Host header, without its port; "" when it is none."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([^\[\]:@/]+)(?::\d+)?", host_header)
    return (match[1] or match[2]).lower() if match else ""
