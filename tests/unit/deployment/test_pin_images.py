"""Images of others are pinned by the digests that skopeo tells; here it is a program that makes some up."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.pin_images import FILES, digest_of, main
from support.container_images import FULL_NAME
from support.root import ROOT

PINNED = re.compile(r"@sha256:[0-9a-f]{64}")


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Pins copies of the files while the registries have digests of a given salt; returns their texts."""
    skopeo = tmp_path / "bin" / "skopeo"
    skopeo.parent.mkdir()
    monkeypatch.setenv("PATH", str(skopeo.parent), prepend=":")
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def pinned(salt: str) -> dict[str, str]:
        digest_of.cache_clear()
        told = f"for name; do :; done; printf 'sha256:'; echo \"{salt}$name\" | sha256sum | cut -c1-64"
        skopeo.write_text(f"#!/bin/sh\n{told if salt else 'exit 1'}\n")
        skopeo.chmod(0o755)
        main(tmp_path)
        return {name: (tmp_path / name).read_text() for name in FILES}

    yield pinned
    digest_of.cache_clear()


def test_every_image_of_others_gets_its_digest_and_nothing_else_is_changed(
    pin: Callable[[str], dict[str, str]],
) -> None:
    pinned = pin("first")
    for name, text in pinned.items():
        assert PINNED.sub("", text) == PINNED.sub("", (ROOT / name).read_text())
    lines = [line.split()[1] for text in pinned.values() for line in re.findall(r"^ *(?:image:|FROM) .*", text, re.M)]
    foreign = [image for image in lines if "/" in image and not image.startswith("localhost/")]
    assert len(foreign) == 7
    assert [image for image in foreign if not (PINNED.search(image) and FULL_NAME.fullmatch(image))] == []
    digests = {image.partition("@")[0]: image for image in foreign}
    assert len(set(foreign)) == len(digests)  # the same everywhere

    assert pin("first") == pinned
    second = pin("second")
    assert [name for name in FILES if second[name] == pinned[name]] == []
    assert [len(PINNED.findall(text)) for text in second.values()] == [
        len(PINNED.findall(text)) for text in pinned.values()
    ]


def test_where_a_registry_does_not_answer_all_stays(pin: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    before = pin("first")
    with pytest.raises(SystemExit, match=r"^no image is pinned: "):
        pin("")
    assert {name: (tmp_path / name).read_text() for name in FILES} == before


def test_no_file_names_an_image_of_others_that_is_not_pinned_with_the_rest() -> None:
    named = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("docker-compose*.yml"), *(ROOT / "deploy").rglob("*")]
        if path.is_file()
        and path.suffix != ".py"
        and re.search(r"^(FROM| +image:) +(?!localhost/)[\w.-]+/", path.read_text(), re.M)
    }
    assert named == set(FILES)
