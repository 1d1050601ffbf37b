"""Write the digest that each image's tag has now into the files that name it: `NAME:TAG@sha256:…`.

    make pin

A tag may be moved, a digest can't. Run it when a tag is changed, and to take a rebuilt image of the same tag. It asks
the registries by skopeo. Images of this machine's own (localhost) and of yours have no digest before they are pushed.
"""

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "deploy/docker/Dockerfile",
    "deploy/kubernetes/overlays/local/seaweedfs.yaml",
    "deploy/kubernetes/valkey/valkey.yaml",
    "docker-compose.yml",
)
IMAGE = re.compile(
    r"^(?P<before>FROM +| +image: +)(?P<name>[\w-]+\.[\w.-]+/[\w./-]+:[\w.-]+)(@sha256:\w+)?", re.MULTILINE
)


def pin(text: str, digest_of: Callable[[str], str]) -> str:
    """Return a file's text with the digest of each image."""
    return IMAGE.sub(lambda found: f"{found['before']}{found['name']}@{digest_of(found['name'])}", text)


@functools.cache
def digest_of(name: str, transport: str = "docker://") -> str:
    """Return an image's digest; of one for several platforms that of its list.

    Args:
        name: of the image, with its tag.
        transport: skopeo's word for where it is.

    Raises:
        OSError: there is no skopeo.
        subprocess.CalledProcessError: there is no such image, or no registry; skopeo has said why.
    """
    command = ["skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}", f"{transport}{name}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()  # noqa: S603


def main(root: Path = ROOT) -> None:
    """Pin the images of all files, or of none."""
    try:
        pinned = {root / name: pin((root / name).read_text(), digest_of) for name in FILES}
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"no image is pinned: {error}")
    for path, text in pinned.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
