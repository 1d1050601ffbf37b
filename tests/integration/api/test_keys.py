"""API keys as clients and operators meet them: the whole stack runs with a keys file."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.limits import Limits
from jobs.settings import Settings

SMALL = {"prompt": "a kestrel at night", "width": 64, "height": 64, "num_inference_steps": 2}
LONG = {**SMALL, "width": 256, "height": 256, "num_inference_steps": 50, "num_images": 8}


def zimage_keys(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ZIMAGE_API_KEYS_FILE": str(file)}
    command = [sys.executable, "-m", "cli.main", "keys", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def created(file: Path, *words: str) -> str:
    result = zimage_keys(file, "create", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@dataclass(frozen=True)
class Guarded:
    """A running service, its keys, and a finished and a queued job of alice's."""

    stack: Stack
    file: Path
    logs: Path
    secrets: dict[str, str]
    finished: str
    queued: str

    def http(self, name: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secrets[name]}"} if name else {}
        return httpx.Client(base_url=self.stack.api_url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.json"
    secrets = {
        "alice": created(file, "alice"),
        "bob": created(file, "bob"),
        "slow": created(file, "slow", "--rate", "3"),
        "few": created(file, "few", "--in-flight", "1"),
        "old": created(file, "old"),
    }
    # No job is seen to its end when the tests are over: the worker hands what it has back.
    env = {"ZIMAGE_API_KEYS_FILE": str(file), "ZIMAGE_DRAIN_SECONDS": "0"}
    with Stack(folder / "data", model="tiny", env=env) as stack:
        with httpx.Client(
            base_url=stack.api_url, headers={"Authorization": f"Bearer {secrets['alice']}"}, timeout=90
        ) as http:
            finished = http.post("/v1/jobs", json=SMALL).json()["id"]
            job = http.get(f"/v1/jobs/{finished}", headers={"Prefer": "wait=60"}).json()
            assert job["status"] == "succeeded", job
            http.post("/v1/jobs", json=LONG)  # keeps the worker busy
            queued = http.post("/v1/jobs", json=LONG).json()["id"]
        yield Guarded(stack, file, folder / "data" / "logs", secrets, finished, queued)


def test_a_file_holds_no_key_and_is_for_its_owner_alone(guarded: Guarded) -> None:
    text = guarded.file.read_text()
    assert not any(secret in text for secret in guarded.secrets.values())
    assert guarded.file.stat().st_mode & 0o777 == 0o600


def test_an_owner_sees_and_does_all(guarded: Guarded) -> None:
    with guarded.http("alice") as http:
        assert {job["id"] for job in http.get("/v1/jobs").json()["jobs"]} >= {guarded.finished, guarded.queued}
        assert http.get(f"/v1/jobs/{guarded.finished}").status_code == 200
        assert http.get(f"/v1/jobs/{guarded.finished}/images/0").status_code == 307


@pytest.mark.parametrize("job", ["finished", "queued"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs/{}"),
        ("GET", "/v1/jobs/{}/images/0"),
        ("GET", "/v1/jobs/{}/events"),
        ("POST", "/v1/jobs/{}/cancel"),
        ("DELETE", "/v1/jobs/{}"),
    ],
)
def test_another_s_job_is_as_if_it_were_not_there(guarded: Guarded, method: str, path: str, job: str) -> None:
    with guarded.http("bob") as http:
        answer = http.request(method, path.format(getattr(guarded, job)))
        unknown = http.request(method, path.format("job_" + 32 * "0"))
    assert answer.status_code == unknown.status_code == 404
    assert answer.json()["detail"] == unknown.json()["detail"]


def test_others_lists_lack_it(guarded: Guarded) -> None:
    with guarded.http("bob") as http:
        assert http.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer zimage_wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YWxpY2U6"},
        {"Authorization": "zimage_wrong"},
        {"X-Api-Key": "{alice}"},
        {"Authorization": "Bearer {alice} {bob}"},
        {"Authorization": "Bearer {alice}x"},
        {"Authorization": "Bearer \u00e9\u00e8"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/queue", "/v1/nothing", "//v1/jobs", "/v1/../v1/jobs", "/V1/jobs", "/metrics/../v1/jobs"]
)
def test_without_a_valid_key_there_is_nothing(guarded: Guarded, headers: dict[str, str], path: str) -> None:
    filled = {name: value.format(**guarded.secrets).encode() for name, value in headers.items()}
    with guarded.http(None) as http:
        answer = http.send(httpx.Request("GET", guarded.stack.api_url + path, headers=filled))
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs", "/docs/swagger-ui.css"]
)
def test_what_tells_of_no_job_needs_no_key(guarded: Guarded, path: str) -> None:
    with guarded.http(None) as http:
        assert http.get(path).status_code == 200


def raw(guarded: Guarded, text: str) -> int:
    """Send bytes that no client library would; return the status of the answer."""
    url = urlsplit(guarded.stack.api_url)
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=60) as connection:
        connection.sendall(text.encode())
        answer = connection.recv(65536)
    return int(answer.split(b" ")[1])


def test_smuggled_headers_help_nobody(guarded: Guarded) -> None:
    bearer = {name: f"Authorization: Bearer {secret}\r\n" for name, secret in guarded.secrets.items()}
    get = "GET /v1/jobs HTTP/1.1\r\nHost: x\r\n"
    assert raw(guarded, f"{get}{bearer['alice']}\r\n") == 200
    assert raw(guarded, f"{get}{bearer['bob']}{bearer['alice']}\r\n") == 401
    assert raw(guarded, f"{get}X-Note: a\r\n b\r\n{bearer['alice'].replace(': ', ' : ')}\r\n") == 400
    both = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    assert raw(guarded, f"{both}\r\n0\r\n\r\n{get}{bearer['alice']}\r\n") == 400
    trailer = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    assert raw(guarded, f"{trailer}{bearer['alice']}\r\n") == 401


def test_a_target_that_is_no_path_needs_a_key_too(guarded: Guarded) -> None:
    assert raw(guarded, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n") == 401


def test_who_is_refused_need_not_send_the_body(guarded: Guarded) -> None:
    head = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    assert raw(guarded, head) == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**SMALL, "prompt": "x" * 10_000_000}, 413),
        ({**SMALL, "prompt": "x" * 2001}, 422),
        ({**SMALL, "owner": "bob"}, 422),
        ({**SMALL, "metadata": {"a": "x" * 5000}}, 422),
    ],
)
def test_what_is_too_large_or_unknown_is_refused(guarded: Guarded, body: dict[str, Any], status: int) -> None:
    with guarded.http("alice") as http:
        assert http.post("/v1/jobs", json=body).status_code == status


def test_keys_come_and_go_without_a_restart(guarded: Guarded) -> None:
    with guarded.http("old") as http:
        assert http.get("/v1/jobs").status_code == 200
        assert zimage_keys(guarded.file, "revoke", "old").returncode == 0
        assert http.get("/v1/jobs").status_code == 401
    new = created(guarded.file, "new")
    with httpx.Client(base_url=guarded.stack.api_url, headers={"Authorization": f"Bearer {new}"}) as http:
        assert http.get("/v1/jobs").status_code == 200


def test_a_file_that_breaks_leaves_the_keys_as_they_were(guarded: Guarded) -> None:
    good = guarded.file.read_bytes()
    guarded.file.write_text("{")
    try:
        with guarded.http("alice") as http:
            assert http.get("/v1/jobs").status_code == 200
        with guarded.http(None) as http:
            assert http.get("/v1/jobs").status_code == 401
            assert "\nzimage_api_keys_file_ok 0.0\n" in http.get("/metrics").text
    finally:
        guarded.file.write_bytes(good)
    assert "\nzimage_api_keys_file_ok 1.0\n" in httpx.get(f"{guarded.stack.api_url}/metrics").text
    assert "keys.json" in (guarded.logs / "api.log").read_text()


def test_a_rate_is_kept_and_told(guarded: Guarded) -> None:
    with guarded.http("slow") as http:
        answers = [http.post("/v1/jobs", json=SMALL) for _ in range(4)]
        key = {"Idempotency-Key": "again"}
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    refused = answers[-1]
    assert refused.headers["ratelimit-policy"] == '"submits";q=3;w=60'
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.json()["code"] == "rate_limited"
    assert refused.json()["detail"].endswith(f": send it again in {refused.headers['retry-after']} s")
    with guarded.http("bob") as http:
        assert http.post("/v1/jobs", json=SMALL, headers=key).status_code == 202


def test_every_answer_to_a_submit_tells_what_the_rate_leaves(servers: Stack, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    bearer = {"Authorization": f"Bearer {KeysFile(file).create('slow', Limits(rate=4, share=1))}"}
    settings = Settings(
        redis_url=servers.redis_url, redis_prefix=f"keyed-{token_hex(4)}:", api_keys_file=file, queue_limit=1
    )
    once = {"Idempotency-Key": "once"}
    with TestClient(create_app(settings), headers=bearer) as http:
        answers = [
            http.post("/v1/jobs", json=SMALL, headers=once),
            http.post("/v1/jobs", json=SMALL, headers=once),
            http.post("/v1/jobs", json={**SMALL, "prompt": "another"}, headers=once),
            http.post("/v1/jobs", json=SMALL),  # the queue takes one job
        ]
    assert [answer.status_code for answer in answers] == [202, 200, 422, 503]
    # Who repeats a key is answered, and that counts; what a full queue refuses does not.
    left = [answer.headers["ratelimit"].split(";")[1] for answer in answers]
    assert left == ["r=3", "r=2", "r=1", "r=1"]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"submits";q=4;w=60'}


def test_jobs_in_flight_are_counted(guarded: Guarded) -> None:
    with guarded.http("few") as http:
        key = {"Idempotency-Key": "first"}
        first = http.post("/v1/jobs", json=SMALL, headers=key).json()
        refused = http.post("/v1/jobs", json=SMALL)
        assert refused.status_code == 429
        assert refused.json()["code"] == "too_many_jobs"
        assert "retry-after" in refused.headers
        assert http.post("/v1/jobs", json=SMALL, headers=key).status_code == 200  # a repetition is no new job
        http.post(f"/v1/jobs/{first['id']}/cancel")
        again = http.post("/v1/jobs", json=SMALL)
        assert again.status_code == 202
        http.post(f"/v1/jobs/{again.json()['id']}/cancel")


def test_logs_hold_no_key_and_no_prompt(guarded: Guarded) -> None:
    logs = "".join(log.read_text() for log in guarded.logs.glob("*.log"))
    assert "Ready to accept connections" in logs
    assert SMALL["prompt"] not in logs
    assert not any(secret in logs for secret in guarded.secrets.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create", "alice"], "there is a key alice already"),
        (["create", "anonymous"], "anonymous: the name is reserved"),
        (["create", "a:b"], "a name has up to 64 letters"),
        (["revoke", "nobody"], "there is no key nobody"),
    ],
)
def test_what_can_not_be_done_is_told_in_a_line(guarded: Guarded, words: list[str], told: str) -> None:
    before = guarded.file.read_bytes()
    result = zimage_keys(guarded.file, *words)
    assert result.returncode == 1
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert guarded.file.read_bytes() == before


def test_the_command_line_says_how_to_name_a_key(guarded: Guarded) -> None:
    command = [sys.executable, "-m", "cli.main", "list", "--url", guarded.stack.api_url]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "name one with --key or ZIMAGE_API_KEY" in refused.stderr
    assert "Authorization" not in refused.stderr


def test_keys_are_listed_without_their_digests(guarded: Guarded) -> None:
    listed = zimage_keys(guarded.file, "list").stdout
    assert "slow\t3/min\tany work\tany number in flight\tshare 0.5, weight 1\t" in listed
    assert "few\tany rate\tany work\t1 in flight\t" in listed
    assert "sha256" not in zimage_keys(guarded.file, "list", "--json").stdout


def test_listing_without_a_file_says_what_to_do(tmp_path: Path) -> None:
    result = zimage_keys(tmp_path / "none.json", "list")
    assert result.returncode == 1
    assert "`zimage keys create` makes it" in result.stderr
