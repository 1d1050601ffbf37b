"""The client's `traceparent`, as W3C Trace Context has it: continued when it is one, else a new trace is begun."""

import re

import pytest

from jobs.telemetry.trace_context import continued, current_traceparent, entered

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


@pytest.mark.parametrize(
    ("sent", "carried"),
    [
        (GOOD, GOOD),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),  # not sampled: so it stays
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", GOOD),
    ],
)
def test_a_clients_trace_is_continued(sent: str, carried: str) -> None:
    with entered([sent]):
        assert current_traceparent() == carried
    assert current_traceparent() is None


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [""],
        [GOOD, GOOD],
        [f"00-{TRACE}-{SPAN}"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"00-{TRACE}-{SPAN}-1"],
        [f"00-{TRACE.upper()}-{SPAN}-01"],
        [f"00-{TRACE[1:]}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01" + "x" * 1000],
    ],
)
def test_what_is_none_is_ignored_and_a_trace_begun(sent: list[str]) -> None:
    begun = []
    for _ in range(2):
        with entered(sent):
            begun.append(current_traceparent())
    assert all(VALID.fullmatch(name or "") for name in begun)
    assert begun[0] != begun[1]
    assert not any(TRACE in (name or "") for name in begun)


def test_a_job_of_an_older_version_belongs_to_no_trace() -> None:
    with continued(None):
        assert current_traceparent() is None
