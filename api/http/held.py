"""Answers that are held until something happens to a job: so many for each who asks, lest nobody else be answered."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from api.problems import RETRY_SECONDS, ProblemError


class Held:
    """The answers that this process holds.

    Args:
        most: for each who asks.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    @contextmanager
    def answer(self, asker: str) -> Iterator[None]:
        """Hold one as long as the context lasts.

        Raises:
            ProblemError: who asks has as many as there may be (429).
        """
        if self._counts[asker] >= self._most:
            told = f"{asker} has {self._most} event streams and waits open: let one end, or poll"
            raise ProblemError(429, "too_many_streams", told, headers={"Retry-After": str(RETRY_SECONDS)})
        self._counts[asker] += 1
        try:
            yield
        finally:
            self._counts[asker] -= 1
            if not self._counts[asker]:
                del self._counts[asker]
