"""Prometheus' rules, and whether rules and dashboards ask for series that the service tells."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from cli.stack import Stack, ports
from support.root import ROOT

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
START_SECONDS = 60.0
SCRAPE_SECONDS = 1

PROMETHEUS, PROMTOOL = shutil.which("prometheus") or "", shutil.which("promtool") or ""

pytestmark = pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="needs Debian's package prometheus")


def groups() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return loaded


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def expressions() -> list[str]:
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    asked = [target["expr"].replace("$namespace", ".*") for panel in panels for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + asked


def selectors(expression: str) -> set[str]:
    """The vector selectors of an expression: a metric's name, or a recorded one's, with its matchers."""
    return set(re.findall(r"\b(?:up|process_start_time_seconds|zimage[a-z0-9_:]*)\b(?:\{[^}]*\})?", expression))


@pytest.mark.parametrize("command", [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]])
def test_rules(command: list[str]) -> None:
    done = subprocess.run([PROMTOOL, *command], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_firing_and_silent() -> None:
    cases = yaml.safe_load((RULES.parent / "rules_test.yml").read_text())["tests"]
    tried = [
        (case["alertname"], bool(case.get("exp_alerts"))) for test in cases for case in test.get("alert_rule_test", [])
    ]
    alerts = [rule["alert"] for rule in rules() if "alert" in rule]
    assert {(alert, fires) for alert in alerts for fires in (True, False)} == set(tried)


def test_a_namespace_s_numbers_are_mixed_with_no_other_s() -> None:
    aggregated = [expression for expression in expressions() if re.search(r"\b(sum|max|min|avg|count)\b", expression)]
    assert len(aggregated) > 20
    mixed = r"(?<!:)\b(sum|max|min|avg|count)\b(?! by \(namespace\b)|\bon \((?!namespace\b)"
    assert [expression for expression in aggregated if re.search(mixed, expression)] == []


def test_each_alert_is_explained_to_the_operator() -> None:
    told = (DEPLOY.parent / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in rules() if "alert" in rule and f"`{rule['alert']}`" not in told] == []


@pytest.fixture(scope="module")
def busy_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that has drawn eight images, and refuses a second waiting job and stream: there are a 503 and a 429."""
    many = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 1, "num_images": 8}
    narrow = {"ZIMAGE_QUEUE_LIMIT": "1", "ZIMAGE_STREAMS_PER_KEY": "1"}
    with Stack(tmp_path_factory.mktemp("monitored"), model="tiny", env=narrow) as stack:
        with httpx.Client(base_url=stack.api_url, timeout=90) as api:
            job = api.post("/v1/jobs", json=many).json()
            assert api.get(job["urls"]["self"], headers={"Prefer": "wait=60"}).json()["status"] == "succeeded"
        yield stack


@pytest.fixture(scope="module")
def prometheus(busy_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus with the project's rules that scrapes the stack."""
    folder = tmp_path_factory.mktemp("prometheus")
    targets = {"zimage-api": busy_stack.api_url, "zimage-worker": busy_stack.worker_metrics_urls[0]}
    every = f"{SCRAPE_SECONDS}s"
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [httpx.URL(url).netloc.decode()]}]}
            for name, url in targets.items()
        ],
    }
    quick = [{**group, "interval": every} for group in groups()]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": quick}))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = ports.assign(folder / "ports.json", ["prometheus"])["prometheus"]
    command = [PROMETHEUS, "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log, env=os.environ
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        try:
            yield http
        finally:
            process.terminate()


def test_images_drawn_before_their_key_s_first_scrape_are_counted(prometheus: httpx.Client) -> None:
    def told(expression: str) -> list[float]:
        try:
            return [float(series["value"][1]) for series in query(prometheus, expression) or []]
        except httpx.TransportError:  # it is starting
            return []

    for metric in ("images", "pixels", "gpu_seconds"):
        counted = sum(told(f"zimage_key_{metric}_total"))
        deadline = time.monotonic() + START_SECONDS
        while not (counted and told(f"zimage:key_{metric}:increase1h")):
            assert time.monotonic() < deadline
            time.sleep(SCRAPE_SECONDS)
            counted = sum(told(f"zimage_key_{metric}_total"))
        assert told(f"zimage:key_{metric}:increase1h") == [pytest.approx(counted)]
    assert told("zimage:images:rate5m") == [pytest.approx(8 / 300)]


def test_every_selector_finds_series(busy_stack: Stack, prometheus: httpx.Client) -> None:
    def work() -> None:
        """Pictures, and submits that find the queue full: rates need counters that grow between two scrapes."""
        with httpx.Client(base_url=busy_stack.api_url, timeout=90) as api:
            answers = [
                api.post("/v1/jobs", json={"prompt": f"a cat {i}", "width": 64, "height": 64, "num_inference_steps": 2})
                for i in range(12)
            ]
            assert {202, 503} <= {answer.status_code for answer in answers}
            urls = [answer.json()["urls"]["self"] for answer in answers if answer.status_code == 202]
            with api.stream("GET", f"{urls[-1]}/events"):
                api.get(urls[-1], headers={"Prefer": "wait=60"})
            for url in urls:
                api.get(url, headers={"Prefer": "wait=60"})

    wanted = {selector for expression in expressions() for selector in selectors(expression)}
    assert len(wanted) > 30
    missing = wanted
    deadline = time.monotonic() + START_SECONDS
    while missing and time.monotonic() < deadline:
        work()
        time.sleep(2 * SCRAPE_SECONDS)
        try:
            missing = {selector for selector in missing if not query(prometheus, selector)}
        except httpx.TransportError:  # it is starting
            continue
    assert missing == set()
    assert [expression for expression in expressions() if query(prometheus, expression) is None] == []


def query(prometheus: httpx.Client, expression: str) -> list[Any] | None:
    """What an expression gives now; None when Prometheus refuses it."""
    answer = prometheus.post("/api/v1/query", data={"query": expression})
    return list(answer.json()["data"]["result"]) if answer.is_success else None
