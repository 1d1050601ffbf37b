"""What an operator is told of each key: who has the queue and the memory, who waits, who is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.limits import Limits
from support.operating import Service, service

SMALL = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 1}
WORK = 64 * 64
Told = Callable[..., float | None]


@pytest.fixture(scope="module")
def own(servers: Stack) -> Iterator[Service]:
    with service(servers) as running:
        yield running


def told(text: str) -> Told:
    """Return what looks a series up, by its name, the key and further labels."""
    series = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return lambda name, key, **labels: series.get((f"zimage_key_{name}", frozenset({"key": key, **labels}.items())))


def test_an_operator_sees_who_uses_the_service_up_and_who_waits(own: Service, tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys.json")
    limits = {"alice": Limits(), "bob": Limits(in_flight=1), "idle": Limits(), "leaver": Limits(share=0.1)}
    bearer = {name: {"Authorization": f"Bearer {file.create(name, of)}"} for name, of in limits.items()}
    settings = own.settings.model_copy(update={"api_keys_file": tmp_path / "keys.json", "queue_limit": 20})
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:

        def submit(name: str, **fields: object) -> int:
            return http.post("/v1/jobs", json={**SMALL, **fields}, headers=bearer[name]).status_code

        def metrics() -> Told:
            text = http.get("/metrics").text
            assert not [key.sha256 for key in file.read() if key.sha256 in text]
            return told(text)

        assert [submit("alice", num_images=2) for _ in range(4)] == [202] * 4
        assert [submit("bob"), submit("bob")] == [202, 429]
        assert [submit("leaver") for _ in range(2)] == [202] * 2
        now = metrics()
        assert [now("jobs", key, status="queued") for key in ("alice", "bob", "leaver")] == [4, 1, 2]
        assert now("queued_work", "alice") == 4 * 2 * WORK
        assert now("oldest_queued_seconds", "alice") > now("oldest_queued_seconds", "bob") > 0
        assert now("kept_bytes", "alice") > now("kept_bytes", "bob") > 1000
        assert now("share_used_ratio", "alice", of="queue") == pytest.approx(4 / (0.5 * (4 + 13)))
        assert now("share_used_ratio", "leaver", of="queue") == pytest.approx(2 / (0.1 * (2 + 13)))
        assert submit("leaver") == 429
        assert 0 < now("share_used_ratio", "alice", of="memory") < 0.01
        assert now("jobs_ended_total", "bob", outcome="succeeded") == now("wait_seconds_count", "bob") == 0
        assert now("jobs", "idle", status="queued") is None, "a series for each key that ever had a job, and no more"

        file.revoke("leaver")
        _, second = claims = [own.claim(), own.claim()]
        assert [claim.job.owner for claim in claims] == ["alice", "bob"]
        own.commit(second)
        now = metrics()
        assert [now("jobs", "alice", status=status) for status in ("queued", "running")] == [3, 1]
        assert now("queued_work", "alice") == 3 * 2 * WORK
        assert [now("jobs", "bob", status=status) for status in ("queued", "running")] == [0, 0]
        assert now("queued_work", "bob") == now("oldest_queued_seconds", "bob") == 0
        assert [now("jobs_ended_total", "bob", outcome=end) for end in ("succeeded", "failed")] == [1, 0]
        assert (now("work_total", "bob"), now("work_total", "alice")) == (WORK, 0)
        assert now("wait_seconds_count", "bob") == now("wait_seconds_bucket", "bob", le="14400.0") == 1
        assert now("wait_seconds_sum", "bob") == pytest.approx(second.job.timings["queue"], abs=1e-6)
        assert now("refusals_total", "bob", code="too_many_jobs") == 1
        assert now("refusals_total", "leaver", code="queue_share_full") == 1

        assert now("jobs", "leaver", status="queued") is None
        assert now("jobs", "(revoked)", status="queued") == 2
        assert now("kept_bytes", "(revoked)") > 1000
        assert now("work_total", "(revoked)") is None, "what revoked keys have had would come all at once"


def test_who_has_no_key_is_told_as_one(own: Service, tmp_path: Path) -> None:
    KeysFile(tmp_path / "keys.json").create("somebody")
    settings = own.settings.model_copy(update={"redis_prefix": f"{own.settings.redis_prefix}open:"})
    changed = settings.model_copy(update={"api_keys_file": tmp_path / "keys.json", "refusals_per_second": 1})
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
        assert http.post("/v1/jobs", json=SMALL).status_code == 202
    with TestClient(create_app(changed), base_url="http://127.0.0.1") as http:  # keys came later
        before = told(http.get("/metrics").text)
        assert before("jobs", "anonymous", status="queued") == 1
        strange = [http.get("/v1/jobs", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(15)]
        assert strange[-1] == 429
        after = told(http.get("/metrics").text)
        more = [now("refusals_total", "anonymous", code="too_many_refusals") or 0 for now in (before, after)]
        assert more[1] - more[0] == strange.count(429)
