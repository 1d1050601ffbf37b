"""Training on a handful of pictures: a checkpoint comes out that draws, and a cut run goes on where it was."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import ZImagePipeline
from pipeline.checkpoint.random import SIZES as MODELS
from pipeline.checkpoint.random import write_configs
from training import autoencoding, flow, pictures, train
from training.model import TextToLatents

SIZES = {(64, 64): 1, (64, 96): 1}


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly anything to learn from, and a clock on which a step takes a second."""
    monkeypatch.setattr(pictures, "CHUNK", 8)
    monkeypatch.setattr(autoencoding, "PICTURES", {(128, 128): 1})
    monkeypatch.setattr(autoencoding, "SHARES", {(128, 128): 1})
    monkeypatch.setattr(autoencoding, "BATCH_PIXELS", 2 * 128 * 128)
    monkeypatch.setattr(autoencoding, "WATCH_EVERY", 2)
    monkeypatch.setattr(flow, "PICTURES", SIZES)
    monkeypatch.setattr(flow, "SHARES", SIZES)
    monkeypatch.setattr(flow, "BATCH", dict.fromkeys(SIZES, 4))
    monkeypatch.setattr(flow, "WATCH_EVERY", 1)
    for module in (autoencoding, flow):
        clock = itertools.count()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))


def test_its_checkpoint_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"--work": tmp_path / "work", "--out": out, "--autoencoder-seconds": 3, "--seconds": 3}
    monkeypatch.setattr("sys.argv", ["train", *(str(word) for pair in options.items() for word in pair)])
    train.main()

    curves = json.loads((out / "curves.json").read_text())
    assert [entry["step"] for entry in curves["autoencoder"]] == [2]
    assert [entry["step"] for entry in curves["flow"]] == [1, 2]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    pipe = ZImagePipeline.from_pretrained(out, device="cpu", dtype=torch.float32)
    assert pipe("a red circle", height=64, width=96)[0].shape == (64, 96, 3)


def test_a_run_whose_time_is_over_gives_what_was_saved(tmp_path: Path) -> None:
    files = tmp_path / "checkpoint"
    files.mkdir()
    write_configs(files, MODELS["tiny"])
    pools = {
        (height, width): pictures.Pool(
            torch.randn(8, 16, height // 8, width // 8), torch.ones(8, 32, dtype=torch.long), torch.full((8,), 20)
        )
        for height, width in SIZES
    }

    def run(seconds: float) -> tuple[TextToLatents, dict[str, Any]]:
        model = TextToLatents(files)
        flow.train_flow(
            model, pools, seconds=seconds, end=math.inf, state=tmp_path / "flow.pt", curve=[], on_watch=lambda _: None
        )
        return model, torch.load(tmp_path / "flow.pt")

    _, before = run(seconds=3)
    model, after = run(seconds=3)

    assert before["step"] == 2
    assert all(map(torch.equal, model.parameters(), before["average"]))
    for name in ("optimizer", "average"):
        assert len(after[name]) == len(before[name])
        assert all(map(torch.equal, after[name], before[name]))
    for name in ("step", "share", "curve"):
        assert after[name] == before[name]
