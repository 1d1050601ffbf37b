"""Load for a stack, and the account of what became of every job of it: nothing is taken on trust.

A job counts as accepted when a POST was answered 202 (or 200 to its repetition). It is lost when the service does not
know it in the end, or it has not ended; doubled when Redis acknowledged the commits of two attempts; damaged when its
record and its image in S3 don't agree; mistimed when its stages don't add up to its time, or hide a lost attempt.
"""

import hashlib
import json
import math
import secrets
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

SUBMITTERS = 4
BODY = {"prompt": "a small red circle on blue", "width": 64, "height": 64, "num_inference_steps": 2}
FETCH_SECONDS = 30.0  # that S3 may be away for
PATIENCE_SECONDS = 240.0  # without any job ending, before the rest is given up

Job = dict[str, Any]


class Load:
    """Submits jobs and reads how they ended; survives an API that is away, as a good client does.

    Args:
        api_url: address of the API.
        folder: where `bench.chaos.faulty` notes what it does.
    """

    def __init__(self, api_url: str, folder: Path) -> None:
        self._http = httpx.Client(base_url=api_url, timeout=90)
        self._s3 = httpx.Client()
        self._folder = folder
        self._begin = time.time()
        self._pool = ThreadPoolExecutor(SUBMITTERS)
        self._closed = threading.Event()
        self.accepted: list[str] = []
        self.refusals: Counter[str] = Counter()

    def close(self) -> None:
        """Close the connections; whoever insists on an answer gives up."""
        self._closed.set()
        self._pool.shutdown()
        self._http.close()
        self._s3.close()

    def submit(self, count: int, bodies: Mapping[int, Mapping[str, Any]] | None = None) -> list[str]:
        """Submit jobs and return their ids, in their order; insists until each is accepted.

        Args:
            count: how many.
            bodies: fields of single jobs, by index.
        """
        ids = list(self._pool.map(self._submit, ((bodies or {}).get(index, {}) for index in range(count))))
        self.accepted += ids
        return ids

    def _submit(self, fields: Mapping[str, Any]) -> str:
        body = {**BODY, **fields}
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        while True:
            try:
                response = self._http.post("/v1/jobs", json=body, headers=headers)
            except httpx.TransportError as error:
                self.refusals[type(error).__name__] += 1
            else:
                if response.status_code in (200, 202):
                    job_id: str = response.json()["id"]
                    return job_id
                self.refusals[f"{response.status_code} {response.json()['code']}"] += 1
                assert response.status_code == 503, response.text
            self._pause(0.2)

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise RuntimeError("the load was closed")

    def queue(self) -> dict[str, int]:
        """Return `/v1/queue`, as soon as it is answered."""
        numbers: dict[str, int] = self._insist("GET", "/v1/queue").json()
        return numbers

    def _insist(self, method: str, path: str) -> httpx.Response:
        """Send a request until it gets an answer other than 429 and 503."""
        while True:
            try:
                response = self._http.request(method, path)
            except httpx.TransportError:
                pass
            else:
                if response.status_code not in (429, 503):
                    return response
            self._pause(0.1)

    def wait_until_done(self) -> None:
        """Return when no job is queued or running, or when none has ended for a long time."""
        demand, since = -1, time.monotonic()
        while (now := self.queue()["demand"]) and time.monotonic() - since < PATIENCE_SECONDS:
            if now != demand:
                demand, since = now, time.monotonic()
            time.sleep(0.1)

    def read(self, job_id: str) -> Job | None:
        """Return a job; None when the service does not know it."""
        response = self._insist("GET", f"/v1/jobs/{job_id}")
        if response.status_code in (404, 410):
            return None
        job: Job = response.raise_for_status().json()
        return job

    def ended(self, job_id: str) -> bool:
        """Tell whether a job has ended, or is gone."""
        job = self.read(job_id)
        return job is None or job["finished_at"] is not None

    def cancel(self, job_id: str) -> None:
        """Cancel a job, if it has not ended yet."""
        self._insist("POST", f"/v1/jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended; a second time when the first answer got lost."""
        response = self._insist("DELETE", f"/v1/jobs/{job_id}")
        assert response.status_code in (204, 410), response.text

    def notes(self, file: str) -> list[dict[str, Any]]:
        """Return the lines that `bench.chaos.faulty` has written to a file since this load began."""
        path = self._folder / file
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["time"] >= self._begin]

    def account(self, ids: Sequence[str] | None = None) -> "Account":
        """Read jobs and their images; all that were accepted, unless told which."""
        ids = self.accepted if ids is None else ids
        jobs = dict(zip(ids, self._pool.map(self.read, ids), strict=True))
        damaged = [job["id"] for job in jobs.values() if job and not self._sound(job)]
        return Account(jobs, damaged, self.winners())

    def winners(self) -> dict[str, set[int]]:
        """Return the attempts whose commit was acknowledged so far, by job."""
        winners: dict[str, set[int]] = {}
        for commit in self.notes("commits.jsonl"):
            if commit["outcome"] == "succeeded":
                winners.setdefault(commit["job"], set()).add(commit["attempt"])
        return winners

    def _sound(self, job: Job) -> bool:
        """Tell whether a job that succeeded has its image, and any other has none."""
        if job["status"] != "succeeded":
            return not job["images"]
        images = [(image, self._fetch(image["url"])) for image in job["images"]]
        return len(images) == job["input"]["num_images"] and all(
            hashlib.sha256(content).hexdigest() == image["sha256"] for image, content in images
        )

    def _fetch(self, url: str) -> bytes:
        """Return an image, or what S3 says instead, though S3 may be away for a while."""
        deadline = time.monotonic() + FETCH_SECONDS
        while True:
            try:
                answer = self._s3.get(url)
            except httpx.TransportError:
                content = b""
            else:
                content = answer.content
                if answer.status_code in (200, 404):
                    return content
            if time.monotonic() > deadline:
                return content
            time.sleep(0.2)


class Account:
    """What became of the jobs.

    Args:
        jobs: by id; None for one that the service does not know.
        damaged: ids of those whose record and images don't agree.
        winners: attempts whose commit was acknowledged, by job.
    """

    def __init__(self, jobs: Mapping[str, Job | None], damaged: Sequence[str], winners: Mapping[str, set[int]]) -> None:
        self.jobs = jobs
        ended = ("succeeded", "failed", "canceled", "expired")
        self.lost = [job_id for job_id, job in jobs.items() if job is None or job["status"] not in ended]
        self.doubled = [job_id for job_id in jobs if len(winners.get(job_id, ())) > 1]
        # Not counted: a commit whose acknowledgment got lost with Redis or the worker is in the record alone.
        self.damaged = [*damaged, *(
            job_id for job_id, job in jobs.items()
            if job and job["status"] != "succeeded" and winners.get(job_id)
        )]  # fmt: skip
        self.mistimed = [job_id for job_id, job in jobs.items() if job and not _is_well_timed(job)]

    def counts(self) -> dict[str, Any]:
        """Return the numbers that a run is judged by."""
        known = [job for job in self.jobs.values() if job]
        return {
            "accepted": len(self.jobs),
            **dict(sorted(Counter(job["status"] for job in known).items())),
            "failed_codes": dict(Counter(job["error"]["code"] for job in known if job["error"])),
            "attempts": dict(sorted(Counter(job["attempt"] for job in known).items())),
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "damaged": len(self.damaged),
        }

    def other(self) -> list[float]:
        """Return the seconds of each job that are in none of its stages."""
        return [job["timings"]["other"] for job in self.jobs.values() if job and job["finished_at"]]

    def finished(self) -> list[float]:
        """Return when each job ended, Unix time, in order."""
        moments = (job["finished_at"] for job in self.jobs.values() if job and job["finished_at"])
        return sorted(datetime.fromisoformat(moment).timestamp() for moment in moments)

    def started(self, job_id: str) -> float | None:
        """Return when the last attempt at a job began, Unix time."""
        job = self.jobs[job_id]
        return datetime.fromisoformat(job["started_at"]).timestamp() if job and job["started_at"] else None


def _is_well_timed(job: Job) -> bool:
    timings = dict(job["timings"])
    total = timings.pop("total", 0.0)
    # Of an attempt that was given up, and ended well all the same, the record does not tell when it began.
    lost = job["attempt"] > 1 and job["started_at"] is not None
    return math.isclose(sum(timings.values()), total, abs_tol=1e-6) and (timings.get("lost", 0.0) > 0 or not lost)


def rate(finished: Sequence[float], begin: float, end: float) -> float:
    """Return the jobs that ended per second from `begin` to `end`."""
    return sum(begin <= moment < end for moment in finished) / (end - begin) if end > begin else 0.0


def recovery(
    finished: Sequence[float], back: float, until: float, before: float, window: float
) -> dict[str, float | None]:
    """Tell how soon work went on after an outage.

    Args:
        finished: when jobs ended.
        back: when the server was back, Unix time.
        until: when the next outage began, or the last job ended, Unix time.
        before: throughput before the first outage, jobs per second.
        window: seconds over which throughput is measured.

    Returns:
        Seconds from `back` to the first job that ended, and to the begin of the first window with at least 90 % of the
        throughput before (None when there is none before the end), with the median throughput of all windows.
    """
    after = [moment for moment in finished if back <= moment < until]
    rates = [(moment, rate(after, moment, moment + window)) for moment in after if moment + window <= until]
    return {
        "first_job_seconds": after[0] - back if after else None,
        "full_rate_seconds": next((moment - back for moment, speed in rates if speed >= 0.9 * before), None),
        "rate_after": statistics.median(speed for _, speed in rates) if rates else None,
    }


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return when the condition holds.

    Raises:
        TimeoutError: it did not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)
