"""The path below which a proxy shows the service: a setting, or what a trusted proxy says (`X-Forwarded-Prefix`).

Proxies pass it on or take it away; inside it is there always, as ASGI has it, and `route_path` is what is below it.
"""

import os

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware, _TrustedHosts

from jobs.addresses import web

HEADER = b"x-forwarded-prefix"


class _Trusted(_TrustedHosts):
    """Whose word counts. Where everybody's does (`*`), the nearest proxy's: uvicorn would take the client's own."""

    def get_trusted_client_address(self, x_forwarded_for: str) -> tuple[str, int]:
        """Return who asked, of those that proxies have told one after the other (uvicorn)."""
        told = x_forwarded_for.rpartition(",")[2] if self.always_trust else x_forwarded_for
        return super().get_trusted_client_address(told)


class BehindProxy(ProxyHeadersMiddleware):
    """Takes a trusted proxy's word for scheme, client (uvicorn) and prefix.

    Trusted are the addresses in uvicorn's `FORWARDED_ALLOW_IPS`, loopback where it is unset.

    Args:
        app: what comes after.
        root_path: the prefix, whatever proxies say; None: what they say.
    """

    def __init__(self, app: ASGIApp, root_path: str | None) -> None:
        super().__init__(app)  # type: ignore[arg-type]
        self.trusted_hosts = trusted_proxies()
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Handle one request (ASGI)."""
        if scope["type"] == "http" and (prefix := self._root_path or self._told(scope)):
            path, raw_path = scope["path"], scope.get("raw_path", b"")
            if path != prefix and not path.startswith(f"{prefix}/"):
                path, raw_path = prefix + path, prefix.encode() + raw_path
            scope = {**scope, "root_path": prefix, "path": path, "raw_path": raw_path}
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]

    def _told(self, scope: Scope) -> str | None:
        """What the nearest proxy says; None where it isn't trusted, or says nothing that can be a prefix."""
        client = scope.get("client")
        if (client[0] if client else None) not in self.trusted_hosts:
            return None
        values = [value for name, value in scope["headers"] if name == HEADER]
        try:
            return web.root_path(values[-1].decode("latin-1").rstrip("/")) if values else None
        except ValueError:
            return None


def trusted_proxies() -> _TrustedHosts:
    """Return the addresses of proxies whose word is taken."""
    return _Trusted(os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.0/8,::1"))


def route_path(scope: Scope) -> str:
    """Return a request's path (ASGI) without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
