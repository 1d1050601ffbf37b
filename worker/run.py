"""One ring of the doorbell: claim a job, have it drawn and delivered, commit."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from jobs.model_card import size_warnings
from jobs.telemetry.logs import about
from pipeline import Generation
from worker.claims.admission import Admission
from worker.claims.ending import Ending
from worker.claims.progress import ProgressReporter
from worker.delivery import Delivery
from worker.executor.executor import Executor
from worker.held import HeldJob
from worker.observers.observer import Observer


class JobRunner:
    """Does this worker's jobs, one for each call of `run`; called from several threads at once.

    Args:
        admission: lets jobs in.
        executor: draws them.
        progress: tells Redis of steps, and hears whether to go on.
        delivery: brings the images to S3.
        ending: tells Redis how it ended.
        observers: are told of each point of a job's life.
    """

    def __init__(
        self,
        admission: Admission,
        executor: Executor,
        progress: ProgressReporter,
        delivery: Delivery,
        ending: Ending,
        observers: Observer,
    ) -> None:
        self._admission = admission
        self._executor = executor
        self._progress = progress
        self._delivery = delivery
        self._ending = ending
        self._observers = observers

    def run(self) -> bool:
        """Claim the best job and see it to its end; return False at once when none waits."""
        with ExitStack() as turn:
            turn.enter_context(self._admission.turn())
            with self._admission.claim() as held:
                if held is None:
                    return False
                with about(held.claim.job):
                    self._observers.claimed(held)
                    outcome = self._attempt(held, end_turn=turn.close)
                    if held.uploading and outcome != "succeeded":
                        self._ending.remove_in_vain(held)
                    self._observers.ended(held, outcome)
        return True

    def _attempt(self, held: HeldJob, end_turn: Callable[[], None]) -> str:
        """Draw and deliver; return how the attempt ended."""
        try:
            generation = self._draw(held, end_turn)
            self._observers.drawn(held)
            return self._deliver(held, generation)
        except Exception as exception:  # noqa: BLE001 - whatever went wrong, the job must end and the worker go on
            return self._ending.give_up(held, exception)

    def _draw(self, held: HeldJob, end_turn: Callable[[], None]) -> Generation:
        try:
            return self._executor.draw(held.claim.job, _Listener(held, self._progress, self._observers, end_turn))
        finally:
            held.drawing = False
            if not held.stages:  # stopped before the device began
                held.spent({"device_wait": held.since_claimed()})

    def _deliver(self, held: HeldJob, generation: Generation) -> str:
        """Upload the images and commit; return the job's status, or `refused` when another attempt has it."""
        job = held.claim.job
        images = self._delivery.deliver(held, generation)
        self._observers.delivered(held, generation)
        size = size_warnings(self._executor.loaded.model, job.input.width, job.input.height)
        warnings = dict.fromkeys([*job.warnings, *generation.warnings, *size])  # some were known at the submit
        outcome = self._ending.commit(held, images, generation.peak_vram_bytes, list(warnings))
        if outcome == "succeeded":
            self._observers.committed(held, images)
        return outcome


class _Listener:
    """Tells of a job that is drawn, has it given up where there is no use in going on, and ends the turn."""

    def __init__(
        self, held: HeldJob, progress: ProgressReporter, observers: Observer, end_turn: Callable[[], None]
    ) -> None:
        self._held = held
        self._input = held.claim.job.input
        self._progress = progress
        self._observers = observers
        self._end_turn = end_turn

    def waiting(self) -> None:
        self._go_on(0)

    def on_step(self, step: int) -> None:
        if not self._held.stages:
            self._held.spent({"device_wait": self._held.since_claimed()})
            self._observers.begun(self._held)
        self._held.drawing = True
        self._go_on(step)

    def on_decode(self, image: int) -> None:
        if image == self._input.num_images:
            self._end_turn()  # so that the next job is there when the device is free; until now it waited in the queue
        self._go_on(self._input.num_inference_steps)

    def on_stages(self, seconds: Mapping[str, float]) -> None:
        self._held.spent(seconds)

    def _go_on(self, step: int) -> None:
        self._progress.report(self._held, step)
        self._held.check()
