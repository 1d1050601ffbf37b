"""What schemathesis has to be told of the API: values that a JSON schema can't describe."""

import base64
import hashlib
import itertools
import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

# Ids of jobs that there are, by the operation that is to meet them: it would hardly guess one.
JOBS = {operation: itertools.cycle(ids) for operation, ids in json.loads(os.environ["JOBS"]).items()}
SIDES = st.integers(4, 128).map(lambda sixteenths: 16 * sixteenths)


def cursor(microseconds: int) -> str:
    return base64.urlsafe_b64encode(str(microseconds).encode()).decode().rstrip("=")


schemathesis.openapi.format("cursor", st.integers(0, 2**53 - 1).map(cursor))
schemathesis.openapi.format("image-size", st.just("auto") | st.builds("{}x{}".format, SIDES, SIDES))
# No other host is sure to resolve, and none to be left alone.
schemathesis.openapi.format("uri", st.just("http://127.0.0.1:65535/hook"))


def _fitting(cache: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return parameters for so many steps, and for the few layers of the bundled model."""
    few = {name: cache[name] % 3 + (name == "first") for name in ("first", "last") if cache.get(name) is not None}
    mask = {"mask": f"{cache['mask']:1<{int(steps)}}"[: int(steps)]} if cache.get("mask") else {}
    return {**cache, **few, **mask}


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: dict[str, Any]) -> None:
    """Make of a request that the document allows one that the service can honour."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if key := case.headers.get("idempotency-key"):
        # A key belongs to one body: with another one it is refused, rightly. The same body still is a repetition.
        case.headers["idempotency-key"] = hashlib.sha256(f"{key} {case.body}".encode()).hexdigest()
    if isinstance(case.body, dict) and isinstance(cache := case.body.get("step_cache"), dict):
        case.body["step_cache"] = _fitting(cache, case.body.get("num_inference_steps") or 8)
    if case.operation.label in JOBS and case.meta.phase.name != "stateful":
        case.path_parameters["job_id"] = next(JOBS[case.operation.label])
