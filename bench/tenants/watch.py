"""What the service uses while it is asked, looked at again and again; and whether it lives."""

import threading
import time
from typing import Any, Self

import httpx
import psutil
import redis

from bench.usage import on_cpu, peak_rss, usage
from cli.stack import Stack

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0  # that /livez may take


class Watch:
    """Looks at the processes of a stack and at `/livez`, on a thread of its own, for as long as its context lasts.

    Attributes:
        samples: what each look found, by process.
        livez: seconds until `/livez` answered, each time on a new connection; None: it did not.
    """

    def __init__(self, stack: Stack) -> None:
        pids = stack.pids()
        self._url = f"{stack.api_url}/livez"
        self._processes = {"api": psutil.Process(pids["api"]), "worker": psutil.Process(pids["workers"][0])}
        self._redis = redis.Redis.from_url(stack.redis_url, socket_timeout=ANSWER_SECONDS)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._start = time.monotonic()
        self.samples: list[dict[str, Any]] = []
        self.livez: list[float | None] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def most(self) -> dict[str, Any]:
        """Return the most of each thing that any look found."""
        return {
            name: {thing: max(sample[name][thing] for sample in self.samples) for thing in self.samples[0][name]}
            for name in ("api", "worker", "valkey")
        } | {"api_peak_rss_bytes": peak_rss(self._processes["api"].pid)}

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            memory = self._redis.info("memory")
            self.samples.append(
                {
                    "event_loop": on_cpu(self._processes["api"].pid),
                    "seconds": round(time.monotonic() - self._start, 1),
                    **{name: usage(process) for name, process in self._processes.items()},
                    "valkey": {name: memory[name] for name in ("used_memory", "used_memory_rss")},
                }
            )
            self.livez.append(self._ask())

    def _ask(self) -> float | None:
        start = time.monotonic()
        try:
            answered = httpx.get(self._url, timeout=ANSWER_SECONDS, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            answered = False
        return time.monotonic() - start if answered else None
