"""The autoscalers decide as Kubernetes' and KEDA's documentation says, and the simulation draws every job once."""

import copy
import math
from dataclasses import replace

import pytest
import yaml

from bench.scaling import wait_targets
from bench.scaling.autoscaler import Activator, Behavior, HorizontalPodAutoscaler, Policy, ScaledObject
from bench.scaling.scaled_service import QUARTERS, Service, Start
from support.kubernetes_objects import of_kind, overlay

MINUTE = 60.0
ONE_JOB_A_POD = ScaledObject(target=1.0, min_replicas=1, max_replicas=100)
AT_ONCE = Behavior(0.0, (Policy("Percent", 100, 15),))
# https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#scaling-policies
DOCUMENTED_POLICIES = """
scaleDown:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Pods, value: 4, periodSeconds: 60}
    - {type: Percent, value: 10, periodSeconds: 60}
"""


def sync_all(autoscaler: HorizontalPodAutoscaler, replicas: int, values: list[float], every: float = 15.0) -> list[int]:
    """The number of pods after each sync."""
    seen = []
    for turn, value in enumerate(values):
        replicas = autoscaler.sync(turn * every, replicas, value)
        seen.append(replicas)
    return seen


@pytest.mark.parametrize(("value", "pods"), [(20.0, 20), (5.0, 5), (10.9, 10), (9.1, 10), (11.1, 12), (0.0, 1)])
def test_the_metric_by_the_target_is_what_is_wanted_unless_it_is_about_what_there_is(value: float, pods: int) -> None:
    assert HorizontalPodAutoscaler(replace(ONE_JOB_A_POD, scale_down=AT_ONCE)).sync(0.0, 10, value) == pods


def test_as_a_default_four_pods_or_twice_as_many_come_in_15_seconds() -> None:
    assert sync_all(HorizontalPodAutoscaler(ONE_JOB_A_POD), 1, [1000.0] * 6) == [5, 10, 20, 40, 80, 100]


def test_within_a_policys_period_what_came_already_counts() -> None:
    a_minute = Behavior(0.0, (Policy("Percent", 100, 60),))
    autoscaler = HorizontalPodAutoscaler(replace(ONE_JOB_A_POD, scale_up=a_minute))
    assert sync_all(autoscaler, 10, [1000.0] * 6) == [20, 20, 20, 20, 40, 40]


def test_of_two_policies_the_one_that_allows_more_counts() -> None:
    rules = yaml.safe_load(DOCUMENTED_POLICIES)["scaleDown"]
    autoscaler = HorizontalPodAutoscaler(
        replace(ONE_JOB_A_POD, min_replicas=10, scale_down=Behavior.from_manifest(rules, AT_ONCE))
    )
    pods = sync_all(autoscaler, 80, [10.0] * 13, every=MINUTE)
    assert pods[:3] == [72, 64, 57]
    assert pods[6:] == [36, 32, 28, 24, 20, 16, 12]


def test_pods_stay_while_more_were_wanted_in_the_last_five_minutes() -> None:
    pods = sync_all(HorizontalPodAutoscaler(ONE_JOB_A_POD), 10, [10.0, 6.0, *[4.0] * 40])
    assert pods[:20] == [10] * 20
    assert pods[20] == 6  # the most of the window, which the 10 has left
    assert pods[21] == 4


def test_up_only_to_the_least_of_its_window() -> None:
    careful = replace(ONE_JOB_A_POD, scale_up=replace(ONE_JOB_A_POD.scale_up, window_seconds=60.0))
    assert sync_all(HorizontalPodAutoscaler(careful), 10, [10.0, 16.0, 18.0, 18.0, 18.0, 18.0]) == [
        *[10, 10, 10, 10],
        *[16, 18],
    ]


def test_keda_goes_to_none_when_the_cooldown_is_over_and_comes_back_at_the_next_poll() -> None:
    to_zero = replace(ONE_JOB_A_POD, min_replicas=0, cooldown_seconds=300.0)
    activator, autoscaler = Activator(to_zero), HorizontalPodAutoscaler(to_zero)
    assert activator.poll(0.0, 3, 1.0) == 3
    assert activator.poll(300.0, 3, 0.0) == 3
    assert activator.poll(315.0, 3, 0.0) == 0
    assert autoscaler.sync(320.0, 0, 50.0) == 0  # switched off
    assert activator.poll(330.0, 0, 50.0) == 1
    assert autoscaler.sync(335.0, 1, 50.0) == 5


def test_keda_keeps_the_minimum() -> None:
    activator = Activator(replace(ONE_JOB_A_POD, min_replicas=2))
    assert activator.poll(1000.0, 2, 0.0) == 2


def the_overlays() -> ScaledObject:
    (manifest,) = of_kind(overlay("gpu-keda"), "ScaledObject")
    return ScaledObject.from_manifest(manifest)


def test_the_overlay_scales_up_before_its_workers_are_all_busy() -> None:
    scaling = the_overlays()
    assert HorizontalPodAutoscaler(scaling).sync(0.0, scaling.max_replicas // 2, scaling.max_replicas // 2) > (
        scaling.max_replicas // 2
    )


def serve(scaling: ScaledObject, arrivals: list[int], replicas: int) -> Service:
    """See these jobs, of a second each, to their end; a new worker takes five minutes."""
    service = Service(scaling, arrivals, 1.0, Start(node=180.0, pod=120.0), replicas)
    service.run()
    return service


BURST = [*[0] * 400, *[25] * 2400, *[1] * 8000]  # by quarters of a second: a hundred at work, for ten minutes


@pytest.mark.parametrize("metric", ["demand", "queued"])
@pytest.mark.parametrize("minimum", [0, 1])
def test_every_job_is_drawn_once(metric: str, minimum: int) -> None:
    service = serve(replace(ONE_JOB_A_POD, metric=metric, min_replicas=minimum), BURST, replicas=minimum)
    assert service.waits.total() == sum(BURST)
    assert service.queued == service.running == 0


def test_the_same_load_gives_the_same_result() -> None:
    first, second = (serve(ONE_JOB_A_POD, BURST, 10) for _ in range(2))
    assert (first.waits, first.gpu_seconds, first.drained) == (second.waits, second.gpu_seconds, second.drained)


def test_jobs_wait_for_a_worker_as_long_as_it_takes_to_start() -> None:
    service = serve(ONE_JOB_A_POD, [1] * 4, replicas=1)
    assert max(service.waits) == 3 * QUARTERS - 3  # one worker: the fourth begins after three seconds
    idle = serve(replace(ONE_JOB_A_POD, min_replicas=0, polling_seconds=15.0), [1], replicas=0)
    assert max(idle.waits) == pytest.approx((15 + 300) * QUARTERS, abs=1)


def test_gpus_are_paid_from_the_nodes_arrival_on() -> None:
    steady = serve(ONE_JOB_A_POD, [1] * 400, replicas=4)
    assert steady.gpu_seconds == pytest.approx(4 * 101, rel=0.01)
    grown = serve(replace(ONE_JOB_A_POD, min_replicas=8), [1] * 4000, replicas=4)
    assert grown.gpu_seconds == pytest.approx(4 * 1001 + 4 * (1001 - 15 - 180), rel=0.01)


STEADY = [10] * (4 * 3600)  # forty at work, for an hour


def test_scaled_on_demand_there_are_never_fewer_workers_than_running_jobs() -> None:
    service = serve(replace(ONE_JOB_A_POD, target=0.9), STEADY, replicas=50)
    assert service.least_replicas >= 40
    assert max(service.waits) == 0


def test_scaled_on_queued_jobs_alone_workers_are_taken_from_running_jobs_and_jobs_wait() -> None:
    service = serve(replace(ONE_JOB_A_POD, target=0.9, metric="queued"), STEADY, replicas=50)
    assert service.least_replicas < 40
    assert max(service.waits) > MINUTE * QUARTERS


def test_with_several_jobs_a_worker_as_target_they_are_taken_as_well() -> None:
    service = serve(replace(ONE_JOB_A_POD, target=8.0), STEADY, replicas=50)
    assert service.least_replicas < 40


@pytest.mark.parametrize(("workers", "utilisation"), [(1, 0.7), (1, 0.9), (4, 0.9), (16, 0.95)])
def test_jobs_that_are_alike_wait_about_half_as_long_as_erlangs(workers: int, utilisation: float) -> None:
    alike = wait_targets.simulated_wait(workers, utilisation, job_seconds=1.0, hours=12)
    mixed = wait_targets.erlang_wait(workers, utilisation, job_seconds=1.0)
    assert 0.3 * mixed < alike < 0.7 * mixed


def test_erlangs_formula_gives_the_textbooks_waits() -> None:
    """With one server a job waits at all with the probability of its utilisation; with two at 0.5, of a third."""
    assert wait_targets.erlang_wait(1, 0.5, 1.0) == pytest.approx(math.log(0.5 / 0.01) / 0.5)
    assert wait_targets.erlang_wait(2, 0.5, 1.0) == pytest.approx(math.log(1 / 3 / 0.01))


def test_what_is_simulated_stands_in_for_the_metric_type_that_it_is_about() -> None:
    manifest = copy.deepcopy(of_kind(overlay("gpu-keda"), "ScaledObject")[0])
    manifest["spec"]["triggers"][0]["metricType"] = "Value"  # would be as if there were one worker
    with pytest.raises(ValueError, match="AverageValue"):
        ScaledObject.from_manifest(manifest)
