"""The images: pinned, checked at the port that their process listens on, run as the user that volumes are made for."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from jobs.settings import Settings
from support.container_images import FULL_NAME
from support.kubernetes_objects import ROOT, Object, pod, workload

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
STAGES = {  # by their names
    text.partition("\n")[0].split()[-1]: text for text in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
}
PORTS = [("api", Settings().port), ("worker", Settings().metrics_port)]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts"), "hadolint")
    done = subprocess.run([hadolint, "deploy/docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_builds_on_has_a_version_to_the_last_digit() -> None:
    foreign = [image for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if ":" in image]
    assert foreign
    assert [image for image in foreign if not re.search(r":\d+\.\d+\.\d+", image)] == []
    names = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - set(foreign)
    assert {name for name in names if "$" not in name} <= STAGES.keys()


def test_what_it_builds_on_is_named_in_full() -> None:
    built_on = [image for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) if ":" in image]
    assert [image for image in built_on if not FULL_NAME.fullmatch(image)] == []


def test_a_gpu_and_its_driver_are_found_by_the_container_toolkit_and_on_gke() -> None:
    told = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)", STAGES["runtime-cuda"], re.MULTILINE))
    assert told == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
    }
    others = [name for name, text in STAGES.items() if "NVIDIA_" in text or "LD_LIBRARY_PATH" in text]
    assert others == ["runtime-cuda"]  # a container on the CPU is to see no GPU


@pytest.mark.parametrize(("stage", "port"), PORTS)
def test_it_is_there_by_ipv4_and_ipv6(stage: str, port: int) -> None:
    assert re.search(r"^ENV ZIMAGE_(METRICS_)?HOST=::$", STAGES[stage], re.MULTILINE), port


@pytest.mark.parametrize(("stage", "port"), PORTS)
def test_its_health_is_asked_where_it_listens(stage: str, port: int) -> None:
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)/readyz", STAGES[stage])
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", STAGES[stage], re.MULTILINE)
    assert int(asked) == int(exposed) == port


@pytest.mark.parametrize(("stage", "_port"), PORTS)
def test_kubernetes_runs_it_as_its_own_user(objects: list[Object], stage: str, _port: int) -> None:
    (user,) = re.findall(r"^USER (\d+:\d+)$", STAGES[stage], re.MULTILINE)
    (made,) = re.findall(r"useradd --uid (\d+) ", DOCKERFILE)
    security = pod(workload(objects, f"zimage-{stage}"))["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user == f"{made}:{made}"
    assert security.get("fsGroup", security["runAsGroup"]) == security["runAsGroup"]
