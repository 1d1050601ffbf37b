"""How settings are written down, each form a whole file: environment, compose, Kubernetes, shell."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Form = Literal["env", "compose", "kubernetes", "commands"]
FORMS: tuple[Form, ...] = get_args(Form)
COMPOSE_FILE = "docker-compose.configured.yml"
OVERLAY = "deploy/kubernetes/overlays/configured"
MODEL_AND_DEVICE = ("ZIMAGE_MODEL", "ZIMAGE_DEVICE")  # the overlays of Kubernetes have their own: S3, and the device
_LINES = textwrap.TextWrapper(110, subsequent_indent="        ", break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Deployment:
    """What is to run: the variables of API and workers, how many workers, whether they draw on GPUs."""

    settings: Mapping[str, str]
    workers: int
    gpu: bool


def write(form: Form, deployment: Deployment, remarks: Sequence[str]) -> str:
    """Return the file's text.

    Args:
        form: which of them.
        deployment: what it says.
        remarks: paragraphs that become comments at its top, below how to use it.
    """
    use, content = _WRITERS[form](deployment)
    told = [line for remark in remarks for line in _LINES.wrap(remark)]
    comments = [f"# {line}".rstrip() for line in (*use, "", *told)]
    return "\n".join([*comments, *content, ""])


Written = tuple[Sequence[str], Sequence[str]]  # how to use it, and its lines


def _env(deployment: Deployment) -> Written:
    use = [
        "For a shell, systemd (EnvironmentFile=) or `docker run --env-file`. As zimage.env:",
        f"    set -a; . ./zimage.env; set +a; {_up(deployment)}",
    ]
    return use, _assignments(deployment.settings)


def _commands(deployment: Deployment) -> Written:
    exports = [f"export {line}" for line in _assignments(deployment.settings)]
    return ["For a shell:"], [*exports, _up(deployment)]


def _compose(deployment: Deployment) -> Written:
    files = ["docker-compose.yml", *(["docker-compose.gpu.yml"] if deployment.gpu else []), COMPOSE_FILE]
    use = [f"As {COMPOSE_FILE}:", f"    docker compose {' '.join(f'-f {name}' for name in files)} up --build"]
    content = [
        "services:",
        "  api:",
        "    environment: &settings",
        *(f'      {name}: "{value}"' for name, value in deployment.settings.items()),
        "  worker:",
        "    environment: *settings",
        f"    deploy: {{replicas: {deployment.workers}}}",
    ]
    return use, content


def _kubernetes(deployment: Deployment) -> Written:
    base = "gpu" if deployment.gpu else "local"
    use = [
        f"As {OVERLAY}/kustomization.yaml, on top of the overlay {base}, which says where model and S3 are:",
        f"    kubectl apply -k {OVERLAY}",
    ]
    literals = [line for line in _assignments(deployment.settings) if not line.startswith(MODEL_AND_DEVICE)]
    content = [
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        "namespace: zimage",
        f"resources: [../{base}]",
        "replicas:",
        f"  - {{name: zimage-worker, count: {deployment.workers}}}",
    ]
    if literals:
        content += ["configMapGenerator:", "  - name: zimage-settings", "    behavior: merge", "    literals:"]
        content += [f'      - "{line}"' for line in literals]
    return use, content


_WRITERS: Mapping[Form, Callable[[Deployment], Written]] = {
    "env": _env,
    "compose": _compose,
    "kubernetes": _kubernetes,
    "commands": _commands,
}


def _assignments(settings: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in settings.items()]


def _up(deployment: Deployment) -> str:
    return f"zimage up --workers {deployment.workers}" if deployment.workers > 1 else "zimage up"
