"""The API or the worker with faults built in: what `bench.chaos` runs in the place of `zimage`.

    CHAOS_DIR=DIR [CHAOS_S3=URL] [CHAOS_UNFENCED=1] python -m bench.chaos.faulty api|worker

A job asks for its fault by `metadata: {"fault": NAME}`; it strikes once, unless it is named `always-…`. DIR holds what
happened, one JSON line each: `hits.jsonl` where a fault struck, `commits.jsonl` each commit that Redis acknowledged,
`requeues.jsonl` each hand-back, `ends.jsonl` each worker's end. `DIR/tokens` holds files that are used up by faults
which belong to no job. Real processes, real signals: a process dies by its own SIGKILL at the very place that the fault
names.

A worker is forked by `bench.chaos.nursery`, which is the process that was started.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.chaos.nursery import raise_workers
from cli.main import app
from jobs.objects.images import ImageStore
from jobs.record import Job
from jobs.store import scripts
from jobs.store.answers import Submitted
from jobs.store.client import ClientStore
from jobs.store.worker import Claim, WorkerStore

SITE = Path(os.environ["CHAOS_DIR"])


def note(file: str, **fields: Any) -> None:
    """Append a line; in one write, so that it is whole even if the process dies right after."""
    line = json.dumps({"time": time.time(), "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(SITE / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def hit(fault: str, job: Job | None = None) -> None:
    """Note that a fault strikes."""
    if job:
        (SITE / f"struck-{job.id}").touch()
    note("hits.jsonl", fault=fault, job=job and job.id, attempt=job and job.attempt)


def die() -> None:
    """End as if by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def take_token(name: str) -> bool:
    """Use one of the tokens of that name up, if there is one."""
    for token in SITE.joinpath("tokens").glob(f"{name}-*"):
        try:
            token.unlink()
        except FileNotFoundError:
            continue
        return True
    return False


def asked(job: Job) -> str | None:
    """Return the fault that is to strike the job now."""
    fault = job.input.metadata.get("fault")
    return None if fault and not fault.startswith("always-") and (SITE / f"struck-{job.id}").exists() else fault


def spoil_drawing() -> None:
    """kill-denoise, always-kill, hang, always-hang: at the first step; oom, always-oom, device-error: before it."""
    import torch

    from worker.claims.progress import ProgressReporter
    from worker.executor.thread import DeviceThread

    report, generate = ProgressReporter.report, DeviceThread._generate

    def report_or_fail(self: Any, held: Any, step: int) -> None:
        fault = asked(held.claim.job)
        if held.drawing and step >= 1 and fault in ("kill-denoise", "always-kill", "hang", "always-hang"):
            hit(fault, held.claim.job)
            if "kill" in fault:
                die()
            time.sleep(3600)
        report(self, held, step)

    def generate_or_fail(self: Any, job: Job, images: range, *told: Any) -> Any:
        fault = asked(job)
        if fault == "always-oom" or (fault == "oom" and len(images) > 1):
            hit(fault, job)
            raise torch.OutOfMemoryError("CUDA out of memory (by bench.chaos.faulty)")
        if fault == "device-error":
            hit(fault, job)
            if not torch.cuda.is_available():
                raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered (by bench.chaos)")
            from bench.chaos.illegal_address import break_device

            break_device(self._pipeline.device)
        return generate(self, job, images, *told)

    ProgressReporter.report = report_or_fail  # type: ignore[method-assign]
    DeviceThread._generate = generate_or_fail  # type: ignore[method-assign, assignment]


class LethalBody:
    """An upload that kills its process half way: botocore reads it once to sign it and a second time to send it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._passes = 0

    def __len__(self) -> int:
        return len(self._data)

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as files do."""
        self._at = offset + (0, self._at, len(self._data))[whence]
        return self._at

    def read(self, _size: int = -1) -> bytes:
        """Return all of it to be signed; half of it to be sent."""
        if self._at == 0:
            self._passes += 1
        signing, half = self._passes == 1, len(self._data) // 2
        if not signing and self._at >= half:
            time.sleep(0.05)  # for the first half to leave
            die()
        end = len(self._data) if signing else half
        part, self._at = self._data[self._at : end], end
        return part


def spoil_delivery() -> None:
    """kill-upload: when half of the image is sent; kill-commit, and freeze-commit tokens (SIGSTOP): not committed yet.

    Notes every commit and hand-back.
    """
    from worker.delivery import Delivery
    from worker.held import HeldJob

    deliver, put_png, commit, requeue = Delivery.deliver, ImageStore.put_png, WorkerStore.commit, WorkerStore.requeue
    current = threading.local()

    def deliver_noting_job(self: Any, held: HeldJob, generation: Any) -> Any:
        current.job = held.claim.job
        return deliver(self, held, generation)

    def put_or_die(self: Any, key: str, png: bytes) -> None:
        if asked(current.job) == "kill-upload":
            hit("kill-upload", current.job)
            png = LethalBody(png)  # type: ignore[assignment]
        put_png(self, key, png)

    def commit_or_die(self: Any, claim: Claim, *args: Any) -> Any:
        if asked(claim.job) == "kill-commit":
            hit("kill-commit", claim.job)
            die()
        if take_token("freeze-commit"):
            hit("freeze-commit", claim.job)
            os.kill(os.getpid(), signal.SIGSTOP)
        outcome = commit(self, claim, *args)
        note("commits.jsonl", job=claim.job.id, attempt=claim.job.attempt, outcome=outcome)
        return outcome

    def requeue_noting(self: Any, claim: Claim, *args: Any) -> Any:
        outcome = requeue(self, claim, *args)
        note("requeues.jsonl", job=claim.job.id, attempt=claim.job.attempt, outcome=outcome)
        return outcome

    Delivery.deliver = deliver_noting_job  # type: ignore[method-assign]
    ImageStore.put_png = put_or_die  # type: ignore[method-assign]
    WorkerStore.commit = commit_or_die  # type: ignore[method-assign, assignment]
    WorkerStore.requeue = requeue_noting  # type: ignore[method-assign, assignment]


def spoil_hearing() -> None:
    """lost-message tokens: the worker dies when it has taken a message from the queue and not yet noted it anywhere."""
    from kombu.transport.redis import QoS

    append = QoS.append

    def append_or_die(self: Any, message: Any, delivery_tag: Any) -> Any:
        if take_token("lost-message"):
            hit("lost-message")
            die()
        return append(self, message, delivery_tag)

    QoS.append = append_or_die  # type: ignore[method-assign]


def spoil_api() -> None:
    """kill-api: the record is written, the bell not rung, no answer sent; ring-5 tokens: a message is sent 5 times."""
    import api.bell
    from jobs.doorbell import ring

    submit = ClientStore.submit

    async def submit_or_die(self: Any, job_id: str, owner: str, job_input: Any, **options: Any) -> Submitted:
        submitted = await submit(self, job_id, owner, job_input, **options)
        if submitted.outcome == "created" and job_input.metadata.get("fault") == "kill-api":
            note("hits.jsonl", fault="kill-api", job=submitted.job_id, attempt=0)
            die()
        return submitted

    def ring_often(app: Any) -> None:
        ring(app)
        if take_token("ring-5"):
            hit("ring-5")
            for _ in range(4):
                ring(app)

    ClientStore.submit = submit_or_die  # type: ignore[method-assign]
    api.bell.ring = ring_often  # type: ignore[attr-defined]


def take_fences_down() -> None:
    """The control: every worker's word counts, whichever attempt it holds."""
    true_source = scripts.source
    fence = "return current_worker == worker and current_attempt == attempt"

    def unfenced(name: str) -> str:
        source = true_source(name)
        assert fence in source
        return source.replace(fence, "return true")

    scripts.source = unfenced  # type: ignore[assignment]


def main() -> None:
    """Run the service's command with the faults in place."""
    if url := os.environ.get("CHAOS_S3"):
        os.environ["ZIMAGE_S3_ENDPOINT"] = url
    if os.environ.get("CHAOS_UNFENCED"):
        take_fences_down()
    if "worker" in sys.argv:
        spoil_drawing()
        spoil_delivery()
        spoil_hearing()
        import worker.process  # noqa: F401 - all that a worker imports

        raise_workers(app, lambda code: note("ends.jsonl", code=code))
    else:
        spoil_api()
        app()


if __name__ == "__main__":
    main()
