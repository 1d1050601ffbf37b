"""A key's limits as its owner is told them: RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10), and 429."""

import math

from api.problems import RETRY_SECONDS, ProblemError, whole
from jobs.keys import ApiKey
from jobs.store.answers import Submitted

LONGEST_RETRY_SECONDS = 600  # what is an estimate is not told for longer
WINDOW_SECONDS = 60
POLICY = "submits"


def limit_headers(key: ApiKey | None, submitted: Submitted) -> dict[str, str]:
    """Return what is left of the key's rate after this submit; nothing for a key without one."""
    if key is None or submitted.allowance is None:
        return {}
    left = submitted.allowance
    return {
        "RateLimit-Policy": f'"{POLICY}";q={key.rate};w={WINDOW_SECONDS}',
        "RateLimit": f'"{POLICY}";r={left.remaining};t={math.ceil(left.reset_seconds)}',
    }


def limit_exceeded(key: ApiKey, submitted: Submitted) -> ProblemError:
    """Return the 429 for a submit that was `too_fast`, `too_much`, `too_many`, `over_share` or `over_memory`."""
    seconds = whole(submitted.retry_seconds or RETRY_SECONDS)
    match submitted.outcome:
        case "too_fast":
            code, told = "rate_limited", f"may submit {key.rate} jobs a minute: send it again in {seconds} s"
        case "too_much":
            asked = f"may ask for {key.work:,} pixels × steps × images a minute"
            code, told = "work_limited", f"{asked}: send it again in {seconds} s"
        case "too_many":
            asked = f"may have {key.in_flight} jobs queued or running"
            code, told = "too_many_jobs", f"{asked}: wait for one to end, or cancel one"
        case "over_memory":
            code, seconds = "memory_share_full", LONGEST_RETRY_SECONDS
            told = "has filled its share of the memory: delete jobs that have ended, or wait until old ones are removed"
        case _:
            seconds = min(seconds, LONGEST_RETRY_SECONDS)
            asked = "has filled its share of the queue"
            code, told = "queue_share_full", f"{asked}: wait for its jobs to be drawn, or cancel some"
    detail = f"key {key.name} {told}"
    headers = {"Retry-After": str(seconds), **limit_headers(key, submitted)}
    return ProblemError(429, code, detail, headers=headers)
