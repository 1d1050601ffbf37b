"""The OpenAPI document and the service say the same: schemathesis tries one against the other, by the thousand.

The whole stack runs, with keys; only the pictures are quick ones.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from cli.stack import Stack
from jobs.keys import KeysFile

HERE = Path(__file__).parent
EXAMPLES = 150  # for each operation and phase
CASES = 2000  # at least; 2,512 when last counted, in 39 s on two busy cores
ENVIRON = {
    "ZIMAGE_QUEUE_LIMIT": "100000",  # a full queue is another test's matter
    "ZIMAGE_READS_PER_SECOND": "100000",  # and so is who asks too often
    "ZIMAGE_REFUSALS_PER_SECOND": "100000",
    "ZIMAGE_MAX_WORK": str(2048 * 2048 * 50 * 10),  # the largest job that the document allows
    "ZIMAGE_WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "ZIMAGE_WEBHOOK_ALLOW_PRIVATE": "true",
}
CARRIERS = {"connection", "content-length", "content-type", "date", "server", "transfer-encoding"}  # HTTP's own headers


@dataclass(frozen=True)
class Answer:
    """What one request of schemathesis' was answered with; `operation` is its path and method in the document."""

    operation: tuple[str, str]
    status: int
    headers: frozenset[str]


@dataclass(frozen=True)
class Run:
    """What schemathesis had to say."""

    document: dict[str, Any]
    output: subprocess.CompletedProcess[str]
    report: dict[str, Any]
    answers: list[Answer]

    def responses(self, operation: tuple[str, str]) -> dict[str, Any]:
        path, method = operation
        responses: dict[str, Any] = self.document["paths"][path][method]["responses"]
        return responses


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("openapi")
    keys = folder / "keys.json"
    # Two keys, so that it also looks whether one can see the other's jobs.
    headers = {name: {"Authorization": f"Bearer {KeysFile(keys).create(name)}"} for name in ("alice", "bob")}
    identities = [
        {"name": name, "fixedHeaders": [{"name": header, "value": value} for header, value in fixed.items()]}
        for name, fixed in headers.items()
    ]
    (folder / "auth.json").write_text(json.dumps({"auth": identities}))
    env = {**ENVIRON, "ZIMAGE_API_KEYS_FILE": str(keys)}
    with Stack(folder / "data", env=env, module="tests.support.quick_pictures") as stack:
        with httpx.Client(base_url=stack.api_url, headers=headers["alice"], timeout=90) as http:
            document = http.get("/openapi.json").json()
            drawn, canceled = _drawn(http), _canceled(http)
            jobs = {
                "GET /v1/jobs/{job_id}": [drawn, canceled],
                "GET /v1/jobs/{job_id}/events": [drawn, canceled],
                "GET /v1/jobs/{job_id}/images/{index}": [drawn, canceled],
                "POST /v1/jobs/{job_id}/cancel": [drawn, canceled],
                "DELETE /v1/jobs/{job_id}": [_drawn(http), _drawn(http), _canceled(http)],
            }
        output = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{stack.api_url}/openapi.json", "--checks", "all", "--auth-wfc", str(folder / "auth.json")),
                *("--max-examples", str(EXAMPLES), "--generation-deterministic", "--continue-on-failure"),
                *("--report-json-path", str(folder / "report.json")),
                *("--report-ndjson-path", str(folder / "events.ndjson")),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HERE), "JOBS": json.dumps(jobs)},
            capture_output=True,
            text=True,
            check=False,
        )
    return Run(document, output, json.loads((folder / "report.json").read_text()), _answers(folder / "events.ndjson"))


def _drawn(http: httpx.Client) -> str:
    job = http.post("/v1/jobs", json={"prompt": "pictures", "num_images": 8}).json()
    ended = http.get(job["urls"]["self"], headers={"Prefer": "wait=60"}).json()
    assert len(ended["images"]) == 8, ended
    return str(ended["id"])


def _canceled(http: httpx.Client) -> str:
    while True:
        job = http.post("/v1/jobs", json={"prompt": "many pictures", "num_images": 8, "width": 2048}).json()
        if http.post(job["urls"]["cancel"]).is_success:  # and not done already
            return str(job["id"])


def _answers(events: Path) -> list[Answer]:
    answers = []
    for line in events.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for case, interaction in recorder.get("interactions", {}).items():
            asked = recorder["cases"][case]["value"]
            response = interaction["response"]
            answers.append(
                Answer(
                    (asked["path"], asked["method"].lower()), response["status_code"], frozenset(response["headers"])
                )
            )
    return answers


def test_schemathesis_finds_nothing(run: Run) -> None:
    assert run.output.returncode == 0, run.output.stdout + run.output.stderr
    assert run.report["complete"]
    assert run.report["operations"]["tested"] == run.report["operations"]["total"]
    assert {phase: result["status"] for phase, result in run.report["phases"].items()} == dict.fromkeys(
        ("examples", "coverage", "fuzzing", "stateful"), "success"
    )
    assert run.report["test_cases"]["generated"] >= CASES


def test_every_operation_was_seen_to_work(run: Run) -> None:
    operations = {(path, method) for path, methods in run.document["paths"].items() for method in methods}
    assert {answer.operation for answer in run.answers if answer.status < 400} >= operations


def test_every_answer_is_documented_with_its_headers(run: Run) -> None:
    missing = set()
    for answer in run.answers:
        path, method = answer.operation
        if method not in run.document["paths"][path]:  # schemathesis tries the others too: 405
            continue
        response = run.responses(answer.operation).get(str(answer.status))
        if response is None:
            missing.add((path, method, answer.status))
        else:
            headers = answer.headers - CARRIERS - {name.lower() for name in response["headers"]}
            missing |= {(path, method, answer.status, header) for header in headers}
    assert not missing


def test_every_example_is_valid(run: Run) -> None:
    examples = list(_examples(run.document))
    assert len(examples) > 100
    for schema, example in examples:
        validator = jsonschema_rs.validator_for({**schema, "components": run.document["components"]})
        assert validator.is_valid(example), (example, [error.message for error in validator.iter_errors(example)])


def _examples(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give each example of the document and the schema that it is an example of."""
    if isinstance(node, list):
        for item in node:
            yield from _examples(item)
    if isinstance(node, dict):
        if isinstance(node.get("examples"), list):
            yield from ((node, example) for example in node["examples"])
        if "schema" in node:
            yield from ((node["schema"], example["value"]) for example in node.get("examples", {}).values())
            if "example" in node:
                yield node["schema"], node["example"]
        for value in node.values():
            yield from _examples(value)


def test_every_answer_has_an_example(run: Run) -> None:
    schemas = run.document["components"]["schemas"]
    without = [
        (path, method, status)
        for path, methods in run.document["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        for content in response.get("content", {}).values()
        if status != "default"
        and not content.keys() & {"example", "examples"}
        and not list(_examples(schemas[content["schema"]["$ref"].rpartition("/")[2]]))
    ]
    assert not without
