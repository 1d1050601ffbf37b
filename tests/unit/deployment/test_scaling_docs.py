"""The overlay `gpu-keda` is the one that docs/scaling.md was computed for, and carries as many GPUs as it scales to."""

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
import yaml

from bench.scaling.autoscaler import ScaledObject
from bench.scaling.scaling_limits import ENDED_JOB_BYTES, limits
from bench.scaling.simulate import PEAK
from support.kubernetes_objects import ROOT, environment, of_kind, overlay, valkeys_megabytes

Row = dict[str, Any]
RESULT: Row = json.loads((ROOT / "bench" / "results" / "scaling.json").read_text())
WAIT_TARGETS: Row = json.loads((ROOT / "bench" / "results" / "wait-targets.json").read_text())
DOCS = {
    name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("scaling", "kubernetes", "operations", "reliability")
}
DAY_SECONDS = 86_400


@pytest.fixture
def scaling() -> ScaledObject:
    (manifest,) = of_kind(overlay("gpu-keda"), "ScaledObject")
    return ScaledObject.from_manifest(manifest)


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """GPUs by what gives way beyond them."""
    monkeypatch.chdir(ROOT)
    start = next(row["start_seconds"] for row in RESULT["rows"] if row["question"] == "target")
    return limits(1 / RESULT["job_seconds"], spike_seconds=start, spike_share=PEAK)


def test_what_was_simulated_is_the_overlay(scaling: ScaledObject) -> None:
    assert json.loads(json.dumps(asdict(scaling))) == RESULT["overlay"]


def test_its_target_is_the_highest_at_which_load_that_workers_can_follow_does_not_wait(scaling: ScaledObject) -> None:
    waits: dict[float, float] = {}
    for row in RESULT["rows"]:
        if row["question"] == "target" and row["load"] in ("steady", "diurnal"):
            waits[row["target"]] = max(waits.get(row["target"], 0.0), row["wait_p99"])
    assert scaling.target == max(target for target, wait in waits.items() if wait < 1)


def test_the_docs_say_how_it_scales(scaling: ScaledObject) -> None:
    assert set(re.findall(r"\*\*(0\.\d+)\*\* \|", DOCS["scaling"])) == {f"{scaling.target:g}"}
    told = [f'`targetValue: "{scaling.target:g}"`', f"asks `/v1/queue` every {scaling.polling_seconds} s"]
    told += [f"With more than\nits {scaling.max_replicas} GPUs"]
    assert [words for words in told if words not in DOCS["kubernetes"]] == []
    (policy,) = scaling.scale_down.policies
    assert (policy.kind, policy.value, policy.period_seconds) == ("Percent", 25, 60)
    minutes = f"after {scaling.scale_down.window_seconds / 60:g} minutes, by a quarter a minute"
    assert minutes in DOCS["scaling"]


def test_the_docs_say_what_gives_way_first(carried: dict[str, float]) -> None:
    table = DOCS["scaling"].partition("## What gives way first")[2]
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \|", table, re.MULTILINE)
    told = [tuple(int(number.replace(",", "")) for number in row) for row in rows]
    assert told == [(int(gpus), round(int(gpus) / RESULT["job_seconds"])) for gpus in carried.values()]
    assert RESULT["gpus_that_each_part_carries"] == pytest.approx(carried)


def test_as_many_gpus_as_it_scales_to_are_carried_by_all_else(scaling: ScaledObject, carried: dict[str, float]) -> None:
    assert {part: gpus for part, gpus in carried.items() if gpus < scaling.max_replicas} == {}


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_ended_jobs_are_kept_for_a_day_as_the_docs_say(name: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    for workload in ("api", "worker"):
        assert environment(overlay(name), f"zimage-{workload}")["ZIMAGE_JOB_TTL"] == str(DAY_SECONDS)
        assert compose[workload]["environment"]["ZIMAGE_JOB_TTL"] == f"${{ZIMAGE_JOB_TTL:-{DAY_SECONDS}}}"
    assert "kept for a day (`ZIMAGE_JOB_TTL` in `overlays/gpu`)" in DOCS["scaling"]
    assert "With GPUs ended jobs are kept for a day" in DOCS["operations"]


def test_the_docs_know_valkeys_memory_and_what_a_job_takes_of_it() -> None:
    memory = f"{valkeys_megabytes(overlay('gpu')):,} MB"
    assert f"Redis' memory: {memory} for ended jobs of {ENDED_JOB_BYTES / 1000} KB each" in DOCS["scaling"]
    assert f"{memory} in Kubernetes" in DOCS["reliability"]
    assert re.search(
        rf"^\| an ended job \| [\d,]+ bytes \| {ENDED_JOB_BYTES / 1000} KB,", DOCS["reliability"], re.MULTILINE
    )


def test_the_docs_say_how_busy_workers_may_be() -> None:
    told = re.findall(r"^\| (\d+) \| ([\d. /]+) \| ([\d. /]+) \|$", DOCS["operations"], re.MULTILINE)
    computed: dict[int, list[Row]] = {}
    for row in WAIT_TARGETS["rows"]:
        computed.setdefault(row["workers"], []).append(row)
    assert told == [
        (str(workers), *(" / ".join(f"{row[mix]:.2f}" for row in rows) for mix in ("alike", "mixed")))
        for workers, rows in computed.items()
    ]
