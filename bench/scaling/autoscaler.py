"""How KEDA and Kubernetes' HorizontalPodAutoscaler decide on a number of pods.

KEDA itself only switches between none and the minimum, each `pollingInterval`. From one pod on the
HorizontalPodAutoscaler that it creates decides, in each of its syncs, by a metric that KEDA fetches at that moment for
it. Sources:

* https://keda.sh/docs/latest/reference/scaledobject-spec/ (pollingInterval, cooldownPeriod, minReplicaCount), and
  kedacore/keda `pkg/scaling/executor/scale_scaledobjects.go`;
* https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ (algorithm details, configurable scaling
  behavior), and kubernetes/kubernetes `pkg/controller/podautoscaler/replica_calculator.go`, `horizontal.go`.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

SYNC_SECONDS = 15.0  # --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance


@dataclass(frozen=True)
class Policy:
    """How many pods may come or go within a period, in percent of those at its beginning or as a number."""

    kind: Literal["Percent", "Pods"]
    value: float
    period_seconds: float


@dataclass(frozen=True)
class Behavior:
    """One direction's rules; of several policies the one that allows most counts (`selectPolicy: Max`)."""

    window_seconds: float
    policies: tuple[Policy, ...]

    @classmethod
    def from_manifest(cls, rules: Mapping[str, Any], default: Self) -> Self:
        """Read `scaleUp` or `scaleDown`; what isn't given is as in `default`."""
        policies = [Policy(each["type"], each["value"], each["periodSeconds"]) for each in rules.get("policies", [])]
        return cls(rules.get("stabilizationWindowSeconds", default.window_seconds), tuple(policies) or default.policies)


SCALE_UP = Behavior(0.0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
SCALE_DOWN = Behavior(300.0, (Policy("Percent", 100, 15),))


@dataclass(frozen=True)
class ScaledObject:
    """A ScaledObject with one trigger of type AverageValue; the defaults are KEDA's and Kubernetes'."""

    target: float  # what the metric may be for each pod
    metric: str = "demand"  # a field of `GET /v1/queue`
    min_replicas: int = 0
    max_replicas: int = 100
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0
    scale_up: Behavior = SCALE_UP
    scale_down: Behavior = SCALE_DOWN

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Read a ScaledObject that names all but what its `behavior` leaves to the defaults.

        Raises:
            ValueError: its trigger is of another metric type, which this algorithm is not about.
        """
        spec = manifest["spec"]
        (trigger,) = spec["triggers"]
        if trigger["metricType"] != "AverageValue":
            raise ValueError(f"metricType {trigger['metricType']}: only AverageValue is simulated")
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            target=float(trigger["metadata"]["targetValue"]),
            metric=trigger["metadata"]["valueLocation"],
            min_replicas=spec["minReplicaCount"],
            max_replicas=spec["maxReplicaCount"],
            polling_seconds=spec["pollingInterval"],
            cooldown_seconds=spec["cooldownPeriod"],
            scale_up=Behavior.from_manifest(behavior.get("scaleUp", {}), SCALE_UP),
            scale_down=Behavior.from_manifest(behavior.get("scaleDown", {}), SCALE_DOWN),
        )


class HorizontalPodAutoscaler:
    """The one that KEDA creates for a ScaledObject, with its memory of what it wanted and did."""

    def __init__(self, spec: ScaledObject) -> None:
        self._spec = spec
        self._minimum = max(1, spec.min_replicas)  # zero is KEDA's
        self._wanted: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def sync(self, now: float, replicas: int, value: float) -> int:
        """Return how many pods there shall be.

        Args:
            now: seconds; syncs come in order.
            replicas: pods that there are, ready or not.
            value: the metric, of all pods together.
        """
        if replicas == 0:  # switched off until KEDA activates
            return 0
        if not self._minimum <= replicas <= self._spec.max_replicas:
            desired = min(max(replicas, self._minimum), self._spec.max_replicas)
        else:
            desired = self._limited(now, replicas, self._stabilized(now, replicas, self._proposed(replicas, value)))
        if desired != replicas:
            self._changes.append((now, desired - replicas))
        return desired

    def _proposed(self, replicas: int, value: float) -> int:
        """`GetExternalPerPodMetricReplicas`: the value by the target, unless that is about what there is."""
        if abs(1.0 - value / (self._spec.target * replicas)) <= TOLERANCE:
            return replicas
        return math.ceil(value / self._spec.target)

    def _stabilized(self, now: float, replicas: int, proposed: int) -> int:
        """`stabilizeRecommendationWithBehaviors`: up to the least, down to the most that was wanted in the window."""
        self._wanted.append((now, proposed))
        longest = max(self._spec.scale_up.window_seconds, self._spec.scale_down.window_seconds)
        while self._wanted[0][0] < now - longest:
            self._wanted.popleft()
        least, most = proposed, proposed
        for moment, wanted in self._wanted:
            if moment > now - self._spec.scale_up.window_seconds:
                least = min(least, wanted)
            if moment > now - self._spec.scale_down.window_seconds:
                most = max(most, wanted)
        return min(max(replicas, least), most)

    def _limited(self, now: float, replicas: int, desired: int) -> int:
        """`convertDesiredReplicasWithBehaviorRate`: what the policies and the bounds allow of it."""
        if desired > replicas:
            allowed = [
                math.ceil(self._before(now, replicas, policy) * (1 + policy.value / 100))
                if policy.kind == "Percent"
                else self._before(now, replicas, policy) + int(policy.value)
                for policy in self._spec.scale_up.policies
            ]
            return min(desired, self._spec.max_replicas, max(replicas, *allowed))
        if desired < replicas:
            allowed = [
                int(self._before(now, replicas, policy) * (1 - policy.value / 100))
                if policy.kind == "Percent"
                else self._before(now, replicas, policy) - int(policy.value)
                for policy in self._spec.scale_down.policies
            ]
            return max(desired, self._minimum, min(replicas, *allowed))
        return replicas

    def _before(self, now: float, replicas: int, policy: Policy) -> int:
        """Return how many pods there were at the beginning of a policy's period."""
        return replicas - sum(change for moment, change in self._changes if moment > now - policy.period_seconds)


class Activator:
    """KEDA's own part: between none and the minimum."""

    def __init__(self, spec: ScaledObject) -> None:
        self._spec = spec
        self._active_at = -math.inf

    def poll(self, now: float, replicas: int, value: float) -> int:
        """Return how many pods there shall be, `replicas` where that is the HorizontalPodAutoscaler's to say."""
        if value > 0:  # above activationTargetValue
            self._active_at = now
            return replicas or max(1, self._spec.min_replicas)
        if self._spec.min_replicas == 0 and now > self._active_at + self._spec.cooldown_seconds:
            return 0
        return max(replicas, self._spec.min_replicas)
