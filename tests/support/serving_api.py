"""The API in the test's own process, so that a test can look into it and change its patience."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from api.app import create_app
from jobs.settings import Settings


@contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    api = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
    thread = threading.Thread(target=api.run)
    thread.start()
    while not api.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = api.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90) as client:
        yield client
    api.should_exit = True
    thread.join()
