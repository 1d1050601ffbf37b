"""Is a job ever lost or done twice? Runs jobs through a stack of real processes while a fault is injected, and counts.

    python -m bench.chaos [FAULT …] [--jobs N] [--hits N] [--lease SECONDS] [--out DIR]

Without a name all faults of `bench.chaos.faults` are run, one after the other. Each is judged: it must have hit enough
jobs, or the run is void; nothing may be lost, doubled, damaged or mistimed; whatever failed must have failed for the
stated reason; and work must go on as soon as is promised, and not anew. The control, `unfenced`, must double some. The
pipeline is the real one with the bundled model, at 64x64 in 2 steps, on the GPU if there is one.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
import torch

from bench.chaos.accounting import Account, Load, rate, recovery
from bench.chaos.faults import FAULTS, Fault
from bench.chaos.s3_proxy import S3Proxy
from bench.chaos.scene import Scene
from cli.stack import Stack, supervisor

WORKERS = 2
QUEUE_DEPTH = 40  # jobs that wait while a fault strikes
BATCH = 10
WINDOW = 5.0  # seconds over which throughput is measured
PAUSE = 2 * WINDOW  # after each outage: a window behind the recovery
ENVIRON = {
    "ZIMAGE_LEASE_SECONDS": "3",
    "ZIMAGE_STEP_TIMEOUT": "2",
    "ZIMAGE_DRAIN_SECONDS": "0.05",
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: all of {', '.join(FAULTS)}")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--hits", type=int, default=20, help="jobs that a fault must hit at least")
    parser.add_argument("--lease", default=ENVIRON["ZIMAGE_LEASE_SECONDS"], help="ZIMAGE_LEASE_SECONDS")
    parser.add_argument("--out", type=Path, default=Path("bench/results/chaos"))
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    names = arguments.faults or list(FAULTS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    bad = []
    for fenced in (True, False):
        chosen = [name for name in names if FAULTS[name].unfenced is not fenced]
        if not chosen:
            continue
        with chaotic_stack(fenced, {"ZIMAGE_LEASE_SECONDS": arguments.lease}) as place:
            for name in chosen:
                result = run(name, place, arguments.jobs, arguments.hits, PAUSE)
                suffix = "" if arguments.lease == ENVIRON["ZIMAGE_LEASE_SECONDS"] else f"-lease-{arguments.lease}"
                (arguments.out / f"{name}{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
                print(summary(result), flush=True)
                bad += [f"{name}: {problem}" for problem in (*result["problems"], *result["short_of_promise"])]
    if bad:
        sys.exit("\n".join(bad))


class Place:
    """A stack for faults: what `run` needs of it."""

    def __init__(self, stack: Stack, folder: Path, proxy: S3Proxy, environ: Mapping[str, str]) -> None:
        self.stack = stack
        self.folder = folder
        self.proxy = proxy
        self.environ = environ


@contextlib.contextmanager
def chaotic_stack(fenced: bool = True, environ: Mapping[str, str] | None = None) -> Iterator[Place]:
    """Run a stack whose API and workers are `bench.chaos.faulty`, with S3 behind a proxy, on a small disk of its own.

    Only root can mount that disk (a tmpfs); for others SeaweedFS is on the one that everything is on.

    Args:
        fenced: False: results of lost attempts are taken too.
        environ: settings other than `ENVIRON`.
    """
    with contextlib.ExitStack() as cleanup:
        # A SIGTERM too must unmount what is mounted, and end what was started.
        cleanup.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        root = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        data, folder = root / "stack", root / "chaos"
        (folder / "tokens").mkdir(parents=True)
        (data / "s3").mkdir(parents=True)
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(data / "s3")]
            subprocess.run(mount, check=True)
            cleanup.callback(subprocess.run, ["umount", "-l", str(data / "s3")], check=True)
        proxy = S3Proxy(lambda: int(json.loads((data / "endpoints.json").read_text())["s3"].rpartition(":")[2]))
        cleanup.callback(proxy.close)
        site = {"CHAOS_DIR": str(folder), "CHAOS_S3": proxy.url, "OMP_NUM_THREADS": "1"}
        environ = {**ENVIRON, **(environ or {}), **site}
        if not fenced:
            environ["CHAOS_UNFENCED"] = "1"
        # Workers die here as fast as they are started; the pauses that spare a machine would be most of a run.
        cleanup.callback(setattr, supervisor, "LONGEST_BACKOFF", supervisor.LONGEST_BACKOFF)
        supervisor.LONGEST_BACKOFF = supervisor.FIRST_BACKOFF
        stack = Stack(data, workers=WORKERS, model="tiny", env=environ, module="bench.chaos.faulty")
        cleanup.enter_context(stack)
        load = Load(stack.api_url, folder)
        cleanup.callback(load.close)
        while load.queue()["workers"] < WORKERS:
            time.sleep(0.1)
        yield Place(stack, folder, proxy, {**os.environ, **environ, **stack.environ()})


def run(name: str, place: Place, jobs: int, hits: int, pause: float = 0.0) -> dict[str, Any]:
    """Put a load on the stack, let the fault strike, wait for the end of all jobs and account for each.

    Args:
        name: of the fault.
        place: where.
        jobs: at least so many are submitted.
        hits: so many the fault must hit, or the run is void.
        pause: seconds after each outage; without any, what is told of recovery is worth nothing.
    """
    fault = FAULTS[name]
    load = Load(place.stack.api_url, place.folder)
    scene = Scene(place.stack, load, place.folder, place.proxy, place.environ, pause=pause)
    began = time.time()
    marked = marks(fault, hits)
    quiet = max(jobs // 3, BATCH)
    feed(load, quiet, {})
    struck = threading.Event()
    middle = max(jobs - 2 * quiet, 2 * len(marked))
    spread = {index * middle // len(marked): fields for index, fields in enumerate(marked)}
    feeder = threading.Thread(target=feed, args=(load, middle, spread, struck))
    feeder.start()
    if fault.alone:
        struck.set()
        feeder.join()
    try:
        if fault.act:
            fault.act(scene, hits)
    except BaseException:
        load.close()  # the stack is about to go, and the feeder would insist on an answer
        raise
    finally:
        struck.set()
        feeder.join()
    feed(load, quiet, {})
    load.wait_until_done()
    account = load.account()
    other = account.other()
    scene.hits += [(line["time"], line["job"]) for line in load.notes("hits.jsonl")]
    result = {
        "fault": name,
        "what": fault.what,
        "command": "python -m " + " ".join(["bench.chaos", *sys.argv[1:]]),
        "device": f"{device()}, {WORKERS} workers",
        "versions": versions(scene),
        "settings": {name: place.environ[name] for name in ENVIRON},
        "seconds": time.time() - began,
        "hits": scene.jobs_hit,
        "hits_by_fault": hits_by_fault(load),
        "worker_ends": dict(Counter(str(line["code"]) for line in load.notes("ends.jsonl"))),
        **account.counts(),
        "other_seconds": {"median": statistics.median(other), "max": max(other)},
        "expected_lost": len(scene.expected_lost),
        "refusals": dict(load.refusals),
        **scene.notes,
        **times(scene, account),
    }
    result["problems"] = problems(fault, scene, account, hits)
    result["short_of_promise"] = short_of_promise(name, scene, result)
    load.close()
    return result


def hits_by_fault(load: Load) -> dict[str, int]:
    """Return how many jobs each fault of a job's own has struck; of those that belong to no job, how often."""
    lines = load.notes("hits.jsonl")
    return dict(Counter(fault for fault, _ in {(line["fault"], line["job"] or line["time"]) for line in lines}))


def marks(fault: Fault, hits: int) -> list[dict[str, Any]]:
    """Return the fields of the jobs that carry a fault of their own, each fault's as far apart as can be."""
    placed = []
    for mark in fault.marks:
        count = math.ceil(mark.share * hits)
        fields = {**mark.fields, "metadata": {"fault": mark.fault}}
        placed += [((number + 0.5) / count, fields) for number in range(count)]
    return [fields for _, fields in sorted(placed, key=lambda each: each[0])]


def feed(load: Load, count: int, fields: Mapping[int, Mapping[str, Any]], until: threading.Event | None = None) -> None:
    """Submit so many jobs, and more until the event is set; let no more than `QUEUE_DEPTH` wait."""
    done = 0
    while done < count or not (until is None or until.is_set()):
        if load.queue()["queued"] > QUEUE_DEPTH:
            time.sleep(0.05)
            continue
        load.submit(BATCH, {index: fields.get(done + index, {}) for index in range(BATCH)})
        done += BATCH


def problems(fault: Fault, scene: Scene, account: Account, hits: int) -> list[str]:
    """Return what speaks against the run; nothing if all went as promised."""
    found = []
    if scene.jobs_hit < hits:
        found.append(f"void: {scene.jobs_hit} jobs were hit, {hits} were wanted")
    if fault.unfenced:
        return found if account.doubled else [*found, "the control doubled nothing"]
    lost = set(account.lost)
    if lost != scene.expected_lost:
        found.append(f"lost: {sorted(lost ^ scene.expected_lost)}")
    wrong = {"doubled": account.doubled, "damaged": account.damaged, "mistimed": account.mistimed}
    found += [f"{word}: {ids}" for word, ids in wrong.items() if ids]
    expected = {mark.fault: mark.ends_as for mark in fault.marks}
    for job in filter(None, account.jobs.values()):
        wanted = expected.get(job["input"]["metadata"].get("fault"), "succeeded")
        ended = job["error"]["code"] if job["error"] else job["status"]
        if ended != wanted:
            found.append(f"{job['id']} ended as {ended}, expected {wanted}: {job['error']}")
    return found


def short_of_promise(name: str, scene: Scene, result: Mapping[str, Any]) -> list[str]:
    """Return where work did not go on as soon as promised, or began anew; a machine that is busy can cause it, too."""
    found = []
    if name == "kill" and (slowest := result["hit_job_runs_again_seconds"]["max"]) > again_within(scene.lease):
        found.append(f"a job ran again after {slowest:.1f} s, {again_within(scene.lease):.1f} s were promised")
    limit = FAULTS[name].back_within
    if limit and not result["jobs_per_second_before"]:
        found.append("void: there was no throughput before the outage")
    elif limit:
        recoveries = [outage["full_rate_seconds"] for outage in result["after_outage"]]
        late = [seconds for seconds in recoveries if seconds is None or seconds > limit]
        found += [f"back at 90 % after {seconds} s, {limit:.0f} s were promised" for seconds in late]
    if limit and (again := result["accepted"] - result["attempts"].get(1, 0)):
        found.append(f"{again} jobs were drawn again")
    return found


def again_within(lease: float) -> float:
    """Return the seconds after which a killed worker's job must run: a lease, the reaper's period, some to begin."""
    return lease * 7 / 6 + 3


def times(scene: Scene, account: Account) -> dict[str, Any]:
    """Return throughput before the first and after the last hit, and how soon work went on."""
    finished = account.finished()
    if not finished:
        return {}
    moments = [*(moment for moment, _ in scene.hits), *(begin for begin, _ in scene.outages)]
    first, last = (min(moments), max(moments)) if moments else (finished[0], finished[-1])
    before = rate(finished, finished[0], first)
    told: dict[str, Any] = {"jobs_per_second_before": before, "jobs_per_second": rate(finished, finished[0], last)}
    again = [
        started - moment
        for moment, job in scene.hits
        if job and job in account.jobs and (started := account.started(job)) and started > moment
    ]
    if again:
        told["hit_job_runs_again_seconds"] = {"median": statistics.median(again), "max": max(again)}
    if scene.outages:
        told["outage_seconds"] = [end - begin for begin, end in scene.outages]
        nexts = [*(begin for begin, _ in scene.outages[1:]), finished[-1]]
        told["after_outage"] = [
            recovery(finished, back, until, before, WINDOW)
            for (_, back), until in zip(scene.outages, nexts, strict=True)
        ]
    return told


def versions(scene: Scene) -> dict[str, str]:
    """Return what the run ran on."""
    with scene.redis as client:
        server = client.info("server")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "redis-py": redis.__version__,
        "valkey": str(server.get("valkey_version") or server["redis_version"]),
    }


def device() -> str:
    """Return what the workers draw on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


def summary(result: Mapping[str, Any]) -> str:
    """Return a run in one line."""
    told = [f"{word} {result.get(word, 0)}" for word in ("hits", "accepted", "succeeded", "failed", "lost", "doubled")]
    words: Sequence[str] = [*result["problems"], *result["short_of_promise"]] or ["ok"]
    return f"{result['fault']:20}{', '.join(told)}, {result['seconds']:.0f} s: {'; '.join(words)[:300]}"


if __name__ == "__main__":
    main()
