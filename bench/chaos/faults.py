"""What can go wrong: each fault as a job's own (struck within `faulty`) or as something done to the stack."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.chaos.accounting import wait_for
from bench.chaos.nursery import child_of
from bench.chaos.scene import PATIENCE, Scene, freeze

REDIS_BACK, S3_BACK = 30.0, 15.0  # seconds until throughput is what it was


def kill_worker(scene: Scene, target: int) -> None:
    """SIGKILL of one worker at a time; the next one once its jobs have ended elsewhere: shows how soon that is."""
    while scene.jobs_hit < target:
        pid = scene.freeze_busy()
        jobs = scene.running(pid)
        scene.strike(jobs)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda jobs=jobs: all(map(scene.load.ended, jobs)), 20 + 4 * scene.lease, "the end of its jobs")  # type: ignore[misc]


def kill_all_workers(scene: Scene, target: int) -> None:
    """SIGKILL of every worker at once, again and again."""
    while scene.jobs_hit < target:
        wait_for(lambda: len(scene.new_jobs()) > 1, PATIENCE, "work")
        pids = scene.workers()
        for pid in pids:
            freeze(pid)
        scene.strike(scene.running())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda old=pids: not set(old) & set(scene.workers()), PATIENCE, "the death of all")  # type: ignore[misc]
        scene.wait_for_progress()


def freeze_worker(scene: Scene, target: int) -> None:
    """SIGSTOP of one worker until its lease is over and its jobs are somebody else's, then SIGCONT."""
    while scene.jobs_hit < target:
        pid = scene.freeze_busy()
        scene.strike(scene.running(pid))
        wait_for(lambda worker=pid: not scene.running(worker), 20 + 4 * scene.lease, "the loss of the lease")  # type: ignore[misc]
        time.sleep(0.3)  # for the next worker to begin
        os.kill(pid, signal.SIGCONT)
        scene.wait_for_progress(2)


def thaw_workers(scene: Scene, target: int) -> None:
    """SIGCONT of a worker that `bench.chaos.faulty` has stopped, once another one has done its job; one at a time."""
    while len({line["job"] for line in scene.load.notes("hits.jsonl")}) < target:
        (scene.folder / "tokens" / "freeze-commit-0").touch()
        wait_for(lambda: any(map(_stopped, scene.workers())), PATIENCE, "the stop of a worker")
        [pid] = filter(_stopped, scene.workers())
        job = next(line["job"] for line in reversed(scene.load.notes("hits.jsonl")) if line["pid"] == pid)

        def done_by_another(job: str = job) -> bool:
            record = scene.load.read(job)
            return record is not None and record["status"] == "succeeded"

        wait_for(done_by_another, PATIENCE, "the end of the job on another worker")
        os.kill(pid, signal.SIGCONT)


def _stopped(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def terminate_worker(scene: Scene, target: int) -> None:
    """SIGTERM of a worker with jobs at hand, `target` times."""
    told: set[int] = set()
    while len(told) < target:
        pid = scene.freeze_busy(but=told)
        scene.strike(scene.running(pid))
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        told.add(pid)
        scene.wait_for_progress(2)
    handed_back = sum(line["outcome"] == "queued" for line in scene.load.notes("requeues.jsonl"))
    assert handed_back >= len(told) / 2, f"{handed_back} jobs were handed back by {len(told)} workers"
    scene.notes |= {"sigterms": len(told), "handed_back": handed_back}


def lose_messages(scene: Scene, target: int) -> None:
    """SIGKILL of a worker that has popped a message from the queue and not noted it as unacknowledged yet."""
    for _ in range(target):
        give_tokens(scene, "lost-message", 1)
        scene.wait_for_progress()  # or the same job might lose its worker three times


def send_messages_often(scene: Scene, target: int) -> None:
    """Each message of the doorbell is pushed five times."""
    give_tokens(scene, "ring-5", target)


def give_tokens(scene: Scene, name: str, count: int) -> None:
    """Lay out tokens for `bench.chaos.faulty`, and wait until they are used up."""
    folder = scene.folder / "tokens"
    for number in range(count):
        (folder / f"{name}-{number}").touch()
    wait_for(lambda: not list(folder.glob(f"{name}-*")), 60 + 20 * count, f"the use of all {name} tokens")


def kill_valkey(appendfsync: str) -> Callable[[Scene, int], None]:
    """SIGKILL of Valkey, again and again; what is in its append-only file comes back."""

    def act(scene: Scene, target: int) -> None:
        kills = 0
        while kills < target / 4 or scene.jobs_hit < target:
            with scene.redis as client:
                client.config_set("appendfsync", appendfsync)
            wait_for(lambda: len(scene.running()) > 1, PATIENCE, "work")
            pid, begin = scene.stack.pids()["valkey"], time.time()
            scene.strike(scene.running())
            os.kill(pid, signal.SIGKILL)
            _wait_for_valkey(scene, pid)
            scene.outage(begin, time.time())
            kills += 1
        scene.notes["kills"] = kills

    return act


def _wait_for_valkey(scene: Scene, old_pid: int) -> None:
    def answers() -> bool:
        try:
            with scene.redis as client:
                return scene.stack.pids()["valkey"] != old_pid and bool(client.ping())
        except redis.RedisError:
            return False

    wait_for(answers, PATIENCE, "Valkey's restart")


def stop_valkey(seconds: float) -> Callable[[Scene, int], None]:
    """SIGSTOP of Valkey: connections stay open and nobody answers."""

    def act(scene: Scene, target: int) -> None:
        wait_for(lambda: scene.load.queue()["demand"] >= target, PATIENCE, "enough jobs in flight")
        with scene.redis as client:
            scene.strike([*client.zrange("zimage:running", 0, -1), *client.zrange("zimage:pending", 0, -1)])
        begin, pid = time.time(), scene.stack.pids()["valkey"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        scene.outage(begin, time.time())

    return act


def cut_connections(scene: Scene, target: int) -> None:
    """CLIENT KILL of every connection of API and workers, twice a second."""
    rounds = 0
    while rounds < target / 2 or scene.jobs_hit < target:
        wait_for(lambda: bool(scene.running()), PATIENCE, "work")
        with scene.redis as client:
            scene.strike(client.zrange("zimage:running", 0, -1))
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
        rounds += 1
        time.sleep(0.5)
    scene.notes["rounds"] = rounds


def fill_valkey(scene: Scene, target: int) -> None:
    """Valkey at its maxmemory, noeviction: submits are refused, and what was accepted before still ends."""
    wait_for(lambda: scene.load.queue()["queued"] >= target, PATIENCE, "enough jobs in flight")
    before = _refused(scene)
    with scene.redis as client:
        begin = time.time()
        usual = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1_000_000)
        scene.strike([*client.zrange("zimage:running", 0, -1), *client.zrange("zimage:pending", 0, -1)])
        try:
            wait_for(
                lambda: scene.load.queue()["demand"] == 0 and _refused(scene) > before,
                120,
                "a refused submit and the end of all jobs while Valkey is full",
            )
        finally:
            client.config_set("maxmemory", usual)
        scene.outages.append((begin, time.time()))
    scene.notes["submits_refused_503"] = _refused(scene) - before


def _refused(scene: Scene) -> int:
    return sum(count for reason, count in scene.load.refusals.items() if reason.startswith("503"))


def truncate_aof(scene: Scene, target: int) -> None:
    """SIGKILL of Valkey, and the end of its append-only file is lost with it: some of the last jobs are cut off."""
    pids = scene.workers()
    for pid in pids:
        freeze(pid)
    kept = scene.load.submit(target)
    [file] = (scene.stack.data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    size = file.stat().st_size
    cut = scene.load.submit(target)
    valkey = scene.stack.pids()["valkey"]
    os.kill(valkey, signal.SIGKILL)
    wait_for(lambda: _dead(valkey), 5, "the death of Valkey")
    os.truncate(file, size + 20)  # in the midst of a command
    _wait_for_valkey(scene, valkey)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    scene.strike(cut)
    scene.expected_lost |= set(cut)
    scene.notes["kept_before_the_cut"] = len(kept)


def _dead(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_s3(scene: Scene, target: int) -> None:
    """SIGKILL of SeaweedFS while images are on their way."""
    while scene.jobs_hit < target:
        wait_for(lambda: len(scene.running()) > 1, PATIENCE, "work")
        pid, begin = scene.stack.pids()["s3"], time.time()
        scene.strike(scene.running())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda old=pid: scene.stack.pids()["s3"] != old, PATIENCE, "SeaweedFS's restart")  # type: ignore[misc]
        scene.outage(begin, begin)  # it works again some time later: what is told is the restart, too


def stop_s3(seconds: float) -> Callable[[Scene, int], None]:
    """SIGSTOP of SeaweedFS: for short times until enough jobs were hit, then once for so long."""

    def act(scene: Scene, target: int) -> None:
        wait = 0.0
        while wait != seconds:
            wait = min(3.0, seconds) if scene.jobs_hit < target else seconds
            wait_for(lambda: len(scene.running()) > 1, PATIENCE, "work")
            pid, begin = scene.stack.pids()["s3"], time.time()
            os.kill(pid, signal.SIGSTOP)
            time.sleep(wait)
            scene.strike(scene.running())
            os.kill(pid, signal.SIGCONT)
            scene.outage(begin, time.time())

    return act


def refuse_s3(status: int) -> Callable[[Scene, int], None]:
    """S3 answers every request with an error, for a few seconds at a time."""

    def act(scene: Scene, target: int) -> None:
        while scene.jobs_hit < target:
            wait_for(lambda: len(scene.running()) > 1, PATIENCE, "work")
            begin = time.time()
            scene.proxy.refuse(status)
            time.sleep(4)
            scene.strike(sorted(scene.proxy.refused_jobs))
            scene.proxy.refuse(None)
            scene.outage(begin, time.time())

    return act


def fill_disk(scene: Scene, target: int) -> None:
    """The disk under SeaweedFS is full for a few seconds at a time."""
    filler = scene.stack.data_dir / "s3" / "filler"
    while scene.jobs_hit < target:
        wait_for(lambda: len(scene.running()) > 1, PATIENCE, "work")
        begin = time.time()
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                pass
        time.sleep(4)
        scene.strike(scene.running())
        filler.unlink()
        scene.outage(begin, time.time())


def skew_clock(scene: Scene, target: int) -> None:
    """The clock of one more worker jumps two hours ahead while it works (libfaketime)."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    clock = scene.folder / "clock"
    clock.write_text("+0")
    environ = {
        **scene.environ,
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "ZIMAGE_METRICS_PORT": "0",
    }
    with (scene.folder / "skewed.log").open("ab") as log:
        nursery = psutil.Popen([sys.executable, "-P", "-m", "bench.chaos.faulty", "worker"], env=environ, stderr=log)
    rounds = 0
    try:
        while scene.jobs_hit < target:
            skewed: list[int] = []

            def works(skewed: list[int] = skewed) -> bool:
                skewed[:] = filter(None, [child_of(nursery.pid)])
                return any(map(scene.running, skewed))

            wait_for(works, PATIENCE, "work of the worker")
            [pid] = skewed
            clock.write_text("+2h")
            # Under libfaketime some of its sleeps fail at the jump (EINVAL), which may end it first: no hand-back then.
            wait_for(
                lambda pid=pid: bool(_returns(scene, pid)) or not psutil.pid_exists(pid),  # type: ignore[misc]
                PATIENCE,
                "a hand-back",
            )
            wait_for(lambda pid=pid: not scene.running(pid), PATIENCE, "the hand-back of all")  # type: ignore[misc]
            scene.wait_for_progress(10)
            assert not scene.running(pid), "a worker that S3 refuses has claimed again"
            # What it hands back too late, on a machine that is busy, has been taken from it: that does not count.
            scene.strike([line["job"] for line in _returns(scene, pid) if line["outcome"] == "queued"])
            clock.write_text("+0")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # its timers don't outlast the jump, so it can't drain
            rounds += 1
    finally:
        nursery.kill()
        nursery.wait(30)
    scene.notes["skewed_workers"] = rounds


def _returns(scene: Scene, pid: int) -> list[dict[str, Any]]:
    return [line for line in scene.load.notes("requeues.jsonl") if line["pid"] == pid]


def fill_queue(depth: int) -> Callable[[Scene, int], None]:
    """Submit faster than can be drawn, until so many jobs wait at once."""

    def act(scene: Scene, _target: int) -> None:
        while scene.load.queue()["queued"] < depth:
            scene.load.submit(min(depth, 100))
        with scene.redis as client:
            scene.strike(client.zrange("zimage:pending", 0, -1))
        scene.notes["queued_at_once"] = scene.jobs_hit

    return act


@dataclass(frozen=True)
class Mark:
    """Jobs that carry a fault of their own: which, what more they ask for, and how they must end."""

    fault: str
    share: float  # of the jobs that the run is to hit
    ends_as: str = "succeeded"  # or the code of the error
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One fault: what is done, to which stack."""

    what: str
    act: Callable[[Scene, int], None] | None = None
    marks: tuple[Mark, ...] = ()
    alone: bool = False  # nothing else is submitted while it acts
    unfenced: bool = False
    # An outage: seconds from its end to 90 % of the throughput before it. What was drawn meanwhile is not drawn again.
    back_within: float | None = None

    def with_act(self, act: Callable[[Scene, int], None]) -> "Fault":
        """Return the same fault with something else done."""
        return replace(self, act=act)


FAULTS: dict[str, Fault] = {
    "kill-denoise": Fault("worker SIGKILLed at a denoising step", marks=(Mark("kill-denoise", 1),)),
    "kill-upload": Fault("worker SIGKILLed with half an image sent", marks=(Mark("kill-upload", 1),)),
    "kill-commit": Fault("worker SIGKILLed between upload and commit", marks=(Mark("kill-commit", 1),)),
    "kill": Fault("one worker SIGKILLed, all else well", kill_worker),
    "kill-all": Fault("all workers SIGKILLed at once", kill_all_workers),
    "freeze": Fault("worker SIGSTOPped past its lease, then SIGCONT", freeze_worker),
    "freeze-commit": Fault(
        "worker SIGSTOPped past its lease right before its commit", thaw_workers
    ),
    "unfenced": Fault(
        "the same with fencing switched off: the control",
        thaw_workers,
        unfenced=True,
    ),
    "message-5": Fault("each message pushed five times", send_messages_often),
    "message-lost": Fault("message lost between pop and unacked", lose_messages),
    "kill-api": Fault("API SIGKILLed between record and doorbell", marks=(Mark("kill-api", 1),)),
    "sigterm": Fault("SIGTERM with jobs at hand", terminate_worker),
    "valkey-kill": Fault("Valkey SIGKILLed, AOF everysec", kill_valkey("everysec"), back_within=REDIS_BACK),
    "valkey-kill-always": Fault("Valkey SIGKILLed, AOF always", kill_valkey("always"), back_within=REDIS_BACK),
    "valkey-truncated": Fault("Valkey's AOF tail truncated", truncate_aof, alone=True),
    "valkey-stop": Fault("Valkey SIGSTOPped for 120 s", stop_valkey(120), back_within=REDIS_BACK),
    "client-kill": Fault("CLIENT KILL under load", cut_connections),
    "valkey-full": Fault("Valkey full, noeviction", fill_valkey, back_within=REDIS_BACK),
    "s3-kill": Fault("SeaweedFS SIGKILLed", kill_s3, back_within=S3_BACK),
    "s3-stop": Fault("SeaweedFS SIGSTOPped for 3 s at a time, then for 60 s", stop_s3(60), back_within=S3_BACK),
    "s3-503": Fault("S3 answers 503", refuse_s3(503), back_within=S3_BACK),
    "s3-403": Fault("S3 answers 403", refuse_s3(403), back_within=S3_BACK),
    "s3-disk-full": Fault("SeaweedFS's disk full", fill_disk, back_within=S3_BACK),
    "poison": Fault("a prompt that kills its worker each time", marks=(Mark("always-kill", 1, "worker_lost"),)),
    "hang": Fault(
        "a step that hangs", marks=(Mark("hang", 2 / 3), Mark("always-hang", 1 / 3, "step_timeout")),
    ),
    "device-error": Fault("a CUDA error that breaks the device", marks=(Mark("device-error", 1),)),
    "out-of-memory": Fault(
        "too little memory for a batch, or for an image",
        marks=(Mark("oom", 1 / 2, fields={"num_images": 3}), Mark("always-oom", 1 / 2, "out_of_memory")),
    ),
    "clock": Fault("a worker's clock jumps two hours", skew_clock),
    "queue-10000": Fault("10,000 jobs queued at once", fill_queue(10_000), alone=True),
}  # fmt: skip
