"""What the images install: each file by its hash, in the versions that the tests ran with."""

import re
import tomllib

import pytest

from support.root import ROOT

LOCKS = {path.stem: path.read_text() for path in (ROOT / "deploy/docker/requirements").iterdir()}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {"api": ["otel", "image"], **{f"worker-{torch}": ["worker", "otel", "image"] for torch in ("cpu", "cuda")}}
CUDA = re.compile(r"torch|triton|cuda-.*|nvidia-(?!ml-py).*")


def versions(text: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("image", EXTRAS)
def test_each_has_hashes_and_the_version_of_the_constraints(image: str) -> None:
    constraints = versions((ROOT / "constraints.txt").read_text())
    entries = re.split(r"\n(?=[\w.-]+==)", LOCKS[image].partition("\n# WARNING")[0])[1:]
    assert len(entries) == len(versions(LOCKS[image]))
    assert [entry for entry in entries if not re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry)] == []
    locked = versions(LOCKS[image])
    assert {name: version for name, version in locked.items() if constraints.get(name, version) != version} == {}


@pytest.mark.parametrize("image", EXTRAS)
def test_it_is_what_the_project_asks_for(image: str) -> None:
    asked = [
        *PROJECT["project"]["dependencies"],
        *(need for extra in EXTRAS[image] for need in PROJECT["project"]["optional-dependencies"][extra]),
        *PROJECT["build-system"]["requires"],  # which pip installs no others for
    ]
    names = {re.split(r"[\[>=<]", need)[0] for need in asked}
    locked = versions(LOCKS[image])
    assert names - locked.keys() == ({"torch"} if image == "worker-cpu" else set())
    assert bool([name for name in locked if CUDA.fullmatch(name)]) == (image == "worker-cuda")


def test_it_is_for_the_python_that_the_images_have() -> None:
    (python,) = re.findall(r"^FROM docker.io/library/python:(3\.\d+)", DOCKERFILE, re.MULTILINE)
    assert [image for image, text in LOCKS.items() if f"with Python {python}\n" not in text] == []


def test_nothing_else_is_installed_but_the_code_and_the_cpu_s_torch() -> None:
    installs = re.findall(r"pip install (.*?)(?:; fi| && \\)?$", DOCKERFILE, re.MULTILINE)
    hashed = [f"--require-hashes --requirement {name}" for name in ("api.txt", '"worker-${TORCH}.txt"')]
    assert installs == [
        *(hashed[0], "--no-deps --no-build-isolation ."),
        *(hashed[1], "--constraint constraints.txt torch", "--no-deps --no-build-isolation ."),
    ]
    assert 'if [ "${TORCH}" = cpu ]; then pip install --constraint constraints.txt torch; fi' in DOCKERFILE
    assert "PIP_ONLY_BINARY=:all:" in DOCKERFILE
