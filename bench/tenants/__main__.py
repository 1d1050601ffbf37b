"""Does a hostile key harm an honest one? One honest tenant and six hostile ones, on one API, one worker, one Valkey.

    python -m bench.tenants [--minutes N] [--out FILE]

Valkey, SeaweedFS, the API and a worker with the bundled model run as `zimage up` starts them, with a keys file of keys
as `zimage keys create NAME` makes them. Each tenant is a process with an address of its own on loopback, all of them on
the service's own machine: so the hostile ones have the CPU that is left (SCHED_IDLE), and paces well past the limits
that they meet (`bench.tenants.hostile`); the worker has nice 19, since it draws on another machine elsewhere.

Told are the time from when a POST of the honest tenant was due to its answer, what it was refused, what became of every
job that was accepted of anybody, and the most that the service ever used. The command fails where a bound is broken.
"""

import argparse
import base64
import json
import os
import secrets
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import redis

from api.http.room import OPEN_FILES
from bench.setting import describe
from bench.tenants.accounting import Ended, account
from bench.tenants.honest import JOBS_PER_SECOND, honest
from bench.tenants.hostile import HOSTILE, PACES
from bench.tenants.tenant import Notes, Tenant, TenantProcess
from bench.tenants.watch import Watch
from cli.stack import Stack
from jobs.keys import KeysFile

MAXMEMORY = 256 * 2**20  # bytes, of Valkey
WORKER_NICENESS = 19
SETTINGS = {
    "ZIMAGE_WEBHOOK_ALLOW_PRIVATE": "true",  # all hosts are on loopback
    "FORWARDED_ALLOW_IPS": "127.0.0.1",  # else all of loopback is a proxy with many clients behind it
    "OMP_NUM_THREADS": "1",
}
POST_P99_MS = 100.0
API_BYTES = 400e6


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path("bench/results/tenants.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), arguments.minutes * 60)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "samples"}, indent=1))
    if result["problems"]:
        sys.exit("\n".join(result["problems"]))


def soak(folder: Path, seconds: float) -> dict[str, Any]:
    """Let all tenants at a service for so long; tell what became of it."""
    keys = {name: KeysFile(folder / "keys.json").create(name) for name in ("honest", *HOSTILE)}
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    own = {"ZIMAGE_API_KEYS_FILE": str(folder / "keys.json"), "ZIMAGE_WEBHOOK_SECRET": secret}
    with Stack(folder / "stack", model="tiny", env={**SETTINGS, **own}, module="bench.tenants.dead_names") as stack:
        with redis.Redis.from_url(stack.redis_url) as client:
            client.config_set("maxmemory", MAXMEMORY)
            valkey = client.info("server")["valkey_version"]
        stack.wait_for_worker()
        pids = stack.pids()
        for thread in psutil.Process(pids["workers"][0]).threads():  # on Linux each has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, thread.id, WORKER_NICENESS)
        tenants = [
            Tenant(name, key, f"127.0.1.{number}", stack.api_url) for number, (name, key) in enumerate(keys.items(), 1)
        ]
        with Watch(stack) as watch:
            processes = [TenantProcess(tenants[0], honest, seconds, idle=False)]
            processes += [TenantProcess(tenant, HOSTILE[tenant.name], seconds, idle=True) for tenant in tenants[1:]]
            notes = {process.tenant.name: process.notes() for process in processes}
        if notes["honest"].fault:
            sys.exit(f"the honest tenant: {notes['honest'].fault}: see above")
        ended = {
            tenant.name: account(tenant, notes[tenant.name].accepted, notes[tenant.name].told.get("pictures", {}))
            for tenant in tenants
        }
        restarted = stack.pids() != pids
        most = watch.most()
    bounds = measure(notes["honest"].told, most, ended)
    return {
        "what": "one honest tenant and six hostile ones on one service",
        **describe("bench.tenants", "fastapi", "uvicorn", "redis", "httpx", "torch"),
        "valkey": valkey,
        "seconds": seconds,
        "settings": SETTINGS,
        "maxmemory": MAXMEMORY,
        "scheduling": {"hostile tenants": "SCHED_IDLE", "worker": f"nice {WORKER_NICENESS}", "others": "nice 0"},
        "bounds": bounds,
        "problems": problems(notes, bounds, watch, restarted=restarted),
        "honest": told_of_the_honest(notes["honest"], ended["honest"]),
        "hostile": {name: told_of_the_hostile(name, notes[name], ended[name]) for name in HOSTILE},
        "most_used": most,
        # Beside the service the clients and whatever else there is want the machine's cores.
        "event_loop": watch.samples[-1]["event_loop"],
        "livez": {
            "asked": len(watch.livez),
            "unanswered": watch.livez.count(None),
            "ms": spread([taken for taken in watch.livez if taken is not None]),
        },
        "samples": watch.samples[:: max(1, len(watch.samples) // 60)],
    }


def told_of_the_honest(notes: Notes, ended: Ended) -> dict[str, Any]:
    """What became of what the honest tenant asked for."""
    told = notes.told
    return {
        "jobs_per_second": JOBS_PER_SECOND,
        "post_ms": spread([taken for _, taken in told["posts"]]),
        "post_ms_by_minute": by_minute(told["posts"]),
        "wait_for_the_device_ms": spread(told["waits"]),
        "pictures_right": len(told["pictures"]),
        **{name: told[name] for name in ("webhooks", "webhooks_missing", "seconds_until_all_was_drawn")},
        "answers": notes.answers,
        "jobs": ended.statuses,
    }


def told_of_the_hostile(name: str, notes: Notes, ended: Ended) -> dict[str, Any]:
    """What a hostile tenant did, and what it was answered."""
    return {
        "does": HOSTILE[name].__doc__,
        "asked_per_second": PACES[name],
        "answers": dict(sorted(notes.answers.items())),
        "jobs_accepted": len(notes.accepted),
        "jobs": ended.statuses,
        **notes.told,
    }


def measure(
    told: Mapping[str, Any], most: Mapping[str, Mapping[str, int]], ended: Mapping[str, Ended]
) -> dict[str, dict[str, float]]:
    """Return what was measured of all that has a bound, beside the bound."""
    api, valkey = most["api"], most["valkey"]
    measured = {
        "p99 of the honest tenant's POST, ms": (spread([taken for _, taken in told["posts"]])["p99"], POST_P99_MS),
        "its submits that were not accepted": (len(told["refused"]), 0),
        "its jobs without the right picture": (len(told["posts"]) - len(told["pictures"]), 0),
        "its webhooks that did not come": (told["webhooks_missing"], 0),
        "jobs lost, of all": (sum(len(each.lost) for each in ended.values()), 0),
        "pictures damaged": (sum(len(each.damaged) for each in ended.values()), 0),
        "memory of the API, bytes": (most["api_peak_rss_bytes"], API_BYTES),
        "open files of the API": (api["files"] + api["sockets"], OPEN_FILES),
        "used_memory of Valkey, bytes": (valkey["used_memory"], MAXMEMORY),
    }
    return {name: {"measured": value, "at_most": bound} for name, (value, bound) in measured.items()}


def problems(
    notes: Mapping[str, Notes], bounds: Mapping[str, Mapping[str, float]], watch: Watch, *, restarted: bool
) -> list[str]:
    """Return what speaks against the run."""
    found = [
        f"{name}: {bound['measured']:g}, at most {bound['at_most']:g} is right"
        for name, bound in bounds.items()
        if bound["measured"] > bound["at_most"]
    ]
    found += [f"void: {name}: {each.fault}" for name, each in notes.items() if each.fault]
    if not notes["honest"].accepted:
        found.append("void: no job of the honest tenant was accepted")
    if unanswered := watch.livez.count(None):
        found.append(f"/livez did not answer {unanswered} times")
    if restarted:
        found.append("a process of the service had to be started again")
    return found


def by_minute(posts: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """Return the spread of each minute's POSTs."""
    minutes: defaultdict[int, list[float]] = defaultdict(list)
    for due, taken in posts:
        minutes[int(due // 60)].append(taken)
    return [spread(minutes[minute]) for minute in sorted(minutes)]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles and the maximum, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    percentiles = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {name: round(value * 1000, 1) for name, value in percentiles.items()}


if __name__ == "__main__":
    main()
