"""What a process says and does about export of spans: nothing, unless its environment asks for it."""

import subprocess
import sys

import pytest

REPORT = """
import sys
{before}
from opentelemetry import trace
from jobs.telemetry import trace_export
from jobs.telemetry.logs import configure_logging
configure_logging("text")
trace_export.start("zimage-api")
resource = getattr(trace.get_tracer_provider(), "resource", None)
print(resource.attributes["service.name"] if resource else "no export")
trace_export.flush()
"""
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NOWHERE = "http://127.0.0.1:9"  # the port of the discard protocol: nobody listens


def report(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], before: str = "") -> tuple[str, str]:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    code = REPORT.format(before=before)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.strip(), ran.stderr


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "no export"),
        ({ENDPOINT: NOWHERE, "OTEL_SDK_DISABLED": "true"}, "no export"),
        ({ENDPOINT: NOWHERE, "OTEL_TRACES_EXPORTER": "none"}, "no export"),
        ({ENDPOINT: NOWHERE}, "zimage-api"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": NOWHERE}, "zimage-api"),
        ({ENDPOINT: NOWHERE, "OTEL_SERVICE_NAME": "pictures"}, "pictures"),
        ({ENDPOINT: NOWHERE, "OTEL_RESOURCE_ATTRIBUTES": "service.name=pictures"}, "pictures"),
    ],
)
def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], told: str) -> None:
    assert report(monkeypatch, environ) == (told, "")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "sys.modules['opentelemetry.exporter'] = None"
    told, warning = report(monkeypatch, {ENDPOINT: NOWHERE}, before=missing)
    assert told == "no export"
    assert f"{ENDPOINT} is set, but no traces are exported" in warning
    assert "pip install 'zimage-service[otel]'" in warning
