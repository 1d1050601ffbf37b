"""Whose request it is: with a keys file every request but a few needs `Authorization: Bearer KEY`."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.clients import client_of
from api.http.prefix import route_path
from api.problems import ProblemError, error_response
from jobs.keys import ApiKey, KeyRing
from jobs.telemetry.logs import bound

OPEN_PATHS = frozenset(  # tell nothing of any job
    (
        *("", "/", "/livez", "/readyz", "/health", "/metrics", "/openapi.json"),
        *("/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"),
    )
)
_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)


class Identification:
    """Tells what comes after whose request it is.

    `request.state.key` is the valid key's entry, None without one; `request.state.asker` names it or, without one, the
    client's address: whom this process counts for.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] == "http":
            key = self._key(Headers(scope=scope))
            client = scope.get("client")
            asker = f"key {key.name}" if key else f"address {client_of(client[0] if client else '')}"
            scope["state"] |= {"key": key, "asker": asker}
        await self._app(scope, receive, send)

    def _key(self, headers: Headers) -> ApiKey | None:
        given = headers.getlist("authorization")
        match = _BEARER.fullmatch(given[0].strip()) if self._keys and len(given) == 1 else None
        return self._keys.find(match[1]) if self._keys and match else None


class Authentication:
    """Refuses requests without a valid key (401), before anything of their body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or route_path(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        key = scope["state"]["key"]
        if key is None:
            detail = "send a valid API key as `Authorization: Bearer KEY`; `zimage keys create` makes one"
            problem = ProblemError(401, "invalid_api_key", detail, headers={"WWW-Authenticate": "Bearer"})
            await error_response(scope, problem)(scope, receive, send)
            return
        with bound(key=key.name):
            await self._app(scope, receive, send)
