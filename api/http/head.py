"""HEAD, by which health checkers ask: wherever GET is served it is answered as that is, without the body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """Has HEAD handled as GET and sends the head of what comes, at once.

    Outside of all that looks at the method. The server has its own scope, by which it knows that no body is to follow.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})  # the end: a stream need not come to its own

        await self._app({**scope, "method": "GET"}, receive, send_head)
