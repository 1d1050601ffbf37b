"""OpenAI's answer with pictures in base64, made piece by piece from S3, so that one that nobody reads holds little.

All pictures are looked for before it begins; from then on one that can't be read ends the connection before the length
is reached that the answer told, so that no client takes it for whole.
"""

import base64
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from botocore.exceptions import IncompleteReadError
from botocore.response import StreamingBody
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import Services
from api.openai.request import ImageData, ImagesResponse
from api.problems import ProblemError
from api.waiting import unless_disconnected
from jobs.objects.refusals import STORAGE_ERRORS, told
from jobs.record import ImageRecord

log = logging.getLogger(__name__)

PIECE_BYTES = 96 * 1024  # of a picture: in base64 each piece but the last is a multiple of 3
_PICTURE = ImageData(b64_json="").model_dump_json(exclude_none=True).encode()
_BEFORE, _BEHIND = _PICTURE[:-2], _PICTURE[-2:]


class PicturesAnswer(Response):
    """The answer, which takes its turn when it is sent.

    Args:
        services: the API's parts.
        owner: whose turn is taken.
        answer: all of it but the pictures.
        pictures: their records.
        headers: of the answer.
        busy: what to raise when there is no turn.
        away: what to raise when a picture can't be read.
    """

    def __init__(
        self,
        services: Services,
        owner: str,
        answer: ImagesResponse,
        pictures: Sequence[ImageRecord],
        headers: dict[str, str],
        *,
        busy: ProblemError,
        away: ProblemError,
    ) -> None:
        head, mark, tail = answer.model_dump_json(exclude_none=True).partition('"data":[')
        self._head, self._tail = (head + mark).encode(), tail.encode()
        self._services = services
        self._owner = owner
        self._pictures = pictures
        self._busy, self._away = busy, away
        super().__init__(media_type="application/json", headers={**headers, "Content-Length": str(self._length)})

    @property
    def _length(self) -> int:
        frames = len(self._pictures) * (len(_PICTURE) + 1) - 1  # and the commas between them
        encoded = sum((picture.bytes + 2) // 3 * 4 for picture in self._pictures)
        return len(self._head) + frames + encoded + len(self._tail)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI), for as long as the client is there."""
        await unless_disconnected(Request(scope, receive), self._send(send))

    async def _send(self, send: Send) -> None:
        try:
            async with self._services.answers.turn(self._owner):
                await self._send_in_turn(send)
        except TimeoutError:
            raise self._busy from None

    async def _send_in_turn(self, send: Send) -> None:
        async with AsyncExitStack() as opened:
            try:
                first = await self._open(self._pictures[0], opened)
                for other in self._pictures[1:]:
                    await self._services.pictures.run(self._services.images.check_png, other.key, other.bytes)
            except STORAGE_ERRORS:
                raise self._away from None
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for piece in self._pieces(first, opened):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except STORAGE_ERRORS as error:
                log.warning("an answer with pictures ends before its end: %s", told(error))
                return  # uvicorn closes the connection
        await send({"type": "http.response.body", "body": b""})

    async def _open(self, picture: ImageRecord, opened: AsyncExitStack) -> StreamingBody:
        body = await self._services.pictures.run(self._services.images.open_png, picture.key, picture.bytes)
        opened.callback(self._services.pictures.soon, body.close)  # waits for a thread that may be reading from it
        return body

    async def _pieces(self, body: StreamingBody, opened: AsyncExitStack) -> AsyncIterator[bytes]:
        """Give the answer; `body` is the first picture's."""
        yield self._head
        for index, picture in enumerate(self._pictures):
            if index:
                body = await self._open(picture, opened)
                yield b","
            yield _BEFORE
            for start in range(0, picture.bytes, PIECE_BYTES):
                yield await self._services.pictures.run(_encoded, body, min(PIECE_BYTES, picture.bytes - start))
            yield _BEHIND
        yield self._tail


def _encoded(body: StreamingBody, size: int) -> bytes:
    piece = body.read(size)
    if len(piece) < size:
        raise IncompleteReadError(actual_bytes=len(piece), expected_bytes=size)
    return base64.b64encode(piece)
