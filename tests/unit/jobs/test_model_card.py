"""The name of what is served, and the sizes that follow from it."""

from pathlib import Path

import pytest

from jobs import model_card
from jobs.model_card import DEFAULT_SIZES, TINY_FOLDER, served_name, size_limits
from pipeline import TINY_CHECKPOINT
from pipeline.checkpoint.sources import HUB_ID


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "tiny"),
        ("Tongyi-MAI/Z-Image-Turbo", "Tongyi-MAI/Z-Image-Turbo"),
        ("models/here", "here"),
        ("./models/here/", "here"),
        ("models/tiny", "models/tiny"),  # not the bundled one
        ("s3://bucket/models/Z-Image-Turbo/", "Z-Image-Turbo"),
        ("s3://bucket/tiny", "bucket/tiny"),
        ("_not/a-hub-id", "a-hub-id"),
        ("/not/mounted/here/Z-Image-Turbo", "Z-Image-Turbo"),  # where the API runs, only where the worker does
        (str(TINY_CHECKPOINT), "tiny"),
        (f"{TINY_CHECKPOINT}/../tiny/", "tiny"),
        ("link", "tiny"),
    ],
)
def test_a_model_is_called_by_its_name_whichever_way_it_is_named(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "tiny"):
        Path("models", folder).mkdir(parents=True)
    Path("link").symlink_to(TINY_CHECKPOINT)
    assert served_name(model) == name
    assert size_limits(served_name(model)).default_size == (128 if name == "tiny" else 1024)


def test_name_and_folder_are_read_as_the_pipeline_reads_them() -> None:
    assert model_card._HUB_ID == HUB_ID
    assert TINY_FOLDER == TINY_CHECKPOINT
    assert TINY_FOLDER.is_dir()


def test_each_default_size_is_known() -> None:
    assert {size_limits(name).default_size for name in ("tiny", "other")} == set(DEFAULT_SIZES)
