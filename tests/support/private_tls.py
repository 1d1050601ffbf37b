"""TLS before a server that speaks none, with a certificate of an authority that only the test knows."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass
class Terminator:
    """What stands before a server: its port, and what clients sent once they trusted it."""

    port: int
    heard: bytearray = field(default_factory=bytearray)


class Authority:
    """A private authority.

    Args:
        folder: where its certificate is written, as `bundle`.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.bundle))
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("localhost").configure_cert(self.server)

    @contextmanager
    def before(self, port: int) -> Iterator[Terminator]:
        """Give what ends TLS as `localhost` and passes all on to this port of loopback."""
        started: Future[tuple[Terminator, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def serve() -> None:
            stop = asyncio.Event()

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pass_on(reader, downstream, terminator.heard), _pass_on(upstream, writer))

            async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self.server) as server:
                terminator = Terminator(server.sockets[0].getsockname()[1])
                started.set_result((terminator, asyncio.get_running_loop(), stop))
                await stop.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        thread.start()
        terminator, loop, stop = started.result(30)
        try:
            yield terminator
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(30)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, heard: bytearray | None = None) -> None:
    try:
        while data := await source.read(65536):
            if heard is not None:
                heard += data
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
