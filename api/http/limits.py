"""A key's limits as its owner is told them: RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10), and 429."""

import math

from api.problems import RETRY_SECONDS, ProblemError, whole
from jobs.keys import ApiKey
from jobs.store.answers import Submitted

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
    """Return the 429 for a submit that was `too_fast` or `too_many`."""
    if submitted.outcome == "too_fast":
        code, seconds = "rate_limited", whole(submitted.retry_seconds or RETRY_SECONDS)
        detail = f"key {key.name} may submit {key.rate} jobs a minute: send it again in {seconds} s"
    else:
        code, seconds = "too_many_jobs", RETRY_SECONDS
        detail = f"key {key.name} may have {key.in_flight} jobs queued or running: wait for one to end, or cancel one"
    headers = {"Retry-After": str(seconds), **limit_headers(key, submitted)}
    return ProblemError(429, code, detail, headers=headers)
