"""Training on a handful of pictures: a checkpoint comes out that draws, and a cut run goes on where it was."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

from pipeline import ZImagePipeline
from training import autoencoding, flow, pictures, train
from training.model import TextToLatents, write_checkpoint_files

SIZES = {(64, 64): 1, (64, 96): 1}


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "CHUNK", 8)
    monkeypatch.setattr(autoencoding, "PICTURES", {(128, 128): 1})
    monkeypatch.setattr(autoencoding, "SHARES", {(128, 128): 1})
    monkeypatch.setattr(autoencoding, "BATCH_PIXELS", 2 * 128 * 128)
    monkeypatch.setattr(autoencoding, "WATCH_EVERY", 2)
    monkeypatch.setattr(flow, "PICTURES", SIZES)
    monkeypatch.setattr(flow, "SHARES", SIZES)
    monkeypatch.setattr(flow, "BATCH", dict.fromkeys(SIZES, 4))
    monkeypatch.setattr(flow, "WATCH_EVERY", 1)


@pytest.mark.usefixtures("few_pictures")
def test_its_checkpoint_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"--work": tmp_path / "work", "--out": out, "--autoencoder-seconds": 5, "--seconds": 5}
    monkeypatch.setattr("sys.argv", ["train", *(str(word) for pair in options.items() for word in pair)])
    train.main()

    curves = json.loads((out / "curves.json").read_text())
    assert curves["autoencoder"]
    assert curves["flow"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    pipe = ZImagePipeline.from_pretrained(out, device="cpu", dtype=torch.float32)
    assert pipe("a red circle", height=64, width=96)[0].shape == (64, 96, 3)


@pytest.mark.usefixtures("few_pictures")
def test_a_cut_run_goes_on_where_it_was(tmp_path: Path) -> None:
    files = tmp_path / "checkpoint"
    files.mkdir()
    write_checkpoint_files(files)
    pools = {
        (height, width): pictures.Pool(
            torch.randn(8, 16, height // 8, width // 8), torch.ones(8, 64, dtype=torch.long), torch.full((8,), 20)
        )
        for height, width in SIZES
    }

    def run(seconds: float, end: float) -> list[dict[str, float]]:
        curve: list[dict[str, float]] = []
        flow.train_flow(
            TextToLatents(files), pools, seconds=seconds, end=end, state=tmp_path / "flow.pt", curve=curve,
            on_watch=lambda _: None,
        )  # fmt: skip
        return curve

    first = run(3600, end=time.monotonic() + 15)
    spent = torch.load(tmp_path / "flow.pt")["seconds"]
    second = run(spent + 5, end=math.inf)

    assert first
    assert second[: len(first)] == first
    assert [entry["step"] for entry in second] == list(range(1, len(second) + 1))
    assert second[len(first)]["seconds"] >= spent
    assert spent + 5 >= second[-1]["seconds"] > spent
