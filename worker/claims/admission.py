"""Which jobs this worker takes, and when: no more than it can draw and deliver."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from jobs.model_card import ModelCard
from jobs.store.worker import AloneError, WorkerStore
from worker.claims.departure import Departure
from worker.claims.leases import Leases
from worker.held import HeldJob

log = logging.getLogger(__name__)

DELIVERABLE_PAUSE = 0.5  # seconds between two looks whether images can be delivered again


class Admission:
    """Claims jobs, one at a time; called from several threads at once.

    Args:
        store: the jobs.
        worker: this worker's id.
        card: what it announces that it can do.
        leases: keeps the claims alive.
        departure: waits for a claim that is under way.
        deliverable: tells whether S3 takes images.
    """

    def __init__(
        self,
        store: WorkerStore,
        worker: str,
        card: ModelCard,
        leases: Leases,
        departure: Departure,
        deliverable: Callable[[], bool],
    ) -> None:
        self.draining = threading.Event()  # set: the jobs at hand may finish, no new ones are taken
        self._store = store
        self._worker = worker
        self._abilities, self._room = card.abilities, card.room
        self._leases = leases
        self._departure = departure
        self._deliverable = deliverable
        self._turn = threading.Lock()
        self._claiming = threading.Lock()
        self._claims = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn: within it the caller may claim a job and have it drawn.

        It ends when the decoding of the last image begins, so that the device need not wait for the next job. Until
        then jobs wait in the queue, where others may take them; for that moment the one that was claimed waits here.
        """
        with self._turn:
            yield

    @contextmanager
    def claim(self) -> Iterator[HeldJob | None]:
        """Hold the best job; None when none waits, or none is to be taken."""
        held = self._claim()
        try:
            yield held
        finally:
            if held:
                self._leases.drop(held)

    def finish(self) -> None:
        """Return when no job is at hand; call it once `draining` is set."""
        with self._claiming:  # whoever has it might be claiming yet
            pass
        self._leases.wait_until(lambda jobs: not jobs)

    def _claim(self) -> HeldJob | None:
        with self._claiming:  # one at a time, so that a job which wants the worker for itself gets it
            self._leases.wait_until(lambda jobs: not any(held.claim.job.losses for held in jobs))
            while self._may_claim():
                try:
                    return self._claim_now(alone=not self._leases.held())
                except AloneError:
                    self._leases.wait_until(lambda jobs: not jobs)
                except RedisError as error:
                    log.warning("could not claim a job: %s", error)
                    return None
            return None

    def _may_claim(self) -> bool:
        # Waits here rather than leave: a worker that can't deliver must not use up the bells of those that can.
        while not self._deliverable() and not self.draining.wait(DELIVERABLE_PAUSE):
            pass
        return not self.draining.is_set()

    def _claim_now(self, alone: bool) -> HeldJob | None:
        with self._departure.put_off():
            claim = self._store.claim(
                self._worker, self._claims, alone=alone, abilities=self._abilities, room=self._room
            )
            if claim is None:
                return None
            self._claims += 1
            return self._leases.add(claim)
