"""Logs in JSON: one object a line, whatever is logged, with the ids of what it is about."""

import json
import os
import subprocess
import sys
from typing import Any

SET_UP = """
import logging, threading, warnings
from jobs.telemetry.logs import about, bound, configure_logging
from jobs.record import Attempt
configure_logging("json")
log = logging.getLogger("some.module")
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"


def logged(code: str, **environ: str) -> list[dict[str, Any]]:
    command, environment = [sys.executable, "-c", SET_UP + code], {**os.environ, **environ}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_a_line_has_what_was_said_and_who_said_it() -> None:
    (line,) = logged('log.warning("%d jobs\\nwait: é", 3, extra={"event": "x"})')
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "WARNING", "logger": "some.module", "message": "3 jobs\nwait: é", "event": "x"}


def test_a_line_is_json_also_where_stderr_is_not_utf_8() -> None:
    (line,) = logged('log.info("caf\\u00e9 \\u732b \\U0001f98a")', PYTHONIOENCODING="ascii")
    assert line["message"] == "café 猫 🦊"


def test_an_exception_is_one_line_wherever_it_was_raised() -> None:
    caught, in_thread, warned, uncaught = logged(
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('caught')\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='gpu')\nthread.start()\nthread.join()\n"
        "warnings.warn('look')\n"
        "1 / 0\n"
    )
    assert [line["message"] for line in (caught, in_thread)] == ["caught", "uncaught exception in gpu"]
    assert "look" in warned["message"]
    for line in (caught, in_thread, uncaught):
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_lines_carry_the_ids_of_the_job_at_hand_and_no_longer() -> None:
    before, within, other, after = logged(
        f"job = Attempt(id='job_1', owner='alice', attempt=2, traceparent='00-{TRACE}-b7ad6b7169203331-01')\n"
        "log.info('before')\n"
        "with bound(request_id='r'), about(job):\n"
        "    log.info('within')\n"
        "    log.info('other', extra={'job_id': 'job_2'})\n"
        "log.info('after')\n"
    )
    ids = {"request_id": "r", "job_id": "job_1", "attempt": 2, "key": "alice", "trace_id": TRACE}
    assert {name: within.get(name) for name in ids} == ids
    assert other["job_id"] == "job_2"
    assert not ids.keys() & (before.keys() | after.keys())
