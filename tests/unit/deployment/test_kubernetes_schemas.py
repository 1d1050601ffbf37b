"""Kubernetes would take the manifests: no field is misspelt, none has a value of another type."""

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
from pydantic import ValidationError

from support.kubernetes_objects import Object, of_kind, overlay

VERSIONS = ("1.30", "1.37")  # the oldest that docs/kubernetes.md names, the newest that there is
# Made from the CRDs of KEDA 2.16 and the Prometheus Operator 0.80.
CUSTOM: dict[str, Any] = {
    model.__name__: model for model in (ScaledObject, TriggerAuthentication, PodMonitor, PrometheusRule)
}


def validate_custom(found: Object) -> None:
    CUSTOM[found["kind"]].model_validate_json(json.dumps(found), strict=True, extra="forbid")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_its_objects(objects: list[Object], version: str) -> None:
    for found in objects:
        if found["kind"] not in CUSTOM:
            kubernetes_validate.validate(found, version, strict=True)


def test_keda_and_the_prometheus_operator_take_theirs(objects: list[Object]) -> None:
    for found in of_kind(objects, *CUSTOM):
        validate_custom(found)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "minReplicas"), 1),
        ("ScaledObject", ("spec", "minReplicaCount"), "1"),
        ("ScaledObject", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "window"), 1),
        ("TriggerAuthentication", ("spec", "secretTargetRefs"), []),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "scrapeInterval"), "15s"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "exp"), "1"),
    ],
)
def test_what_custom_resources_do_not_know_is_refused(kind: str, path: tuple[Any, ...], value: object) -> None:
    wrong = copy.deepcopy(of_kind(overlay("gpu-keda"), kind)[0])
    place: Any = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        validate_custom(wrong)
