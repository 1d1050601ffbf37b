"""What rectified flow teaches, shown on a model that has nothing to learn but a picture for each caption."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pipeline.model.scheduler import euler_step, sigmas
from training import flow, optimizer
from training.model import TextToLatents
from training.pictures import Pool

SIZES = {(64, 64): 1, (64, 96): 1}
PICTURES = torch.linspace(-0.1, 0.1, 32).view(2, 16)  # the latents of captions 0 and 1, the same all over a picture
LEVELS = sigmas(flow.STEPS, flow.SHIFT)[:-1]


class Guess(nn.Module):
    """Says what leads to the picture that it has in mind for a caption."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(pictures), pictures.shape[1], _weight=pictures.clone())

    def forward(self, latents: Tensor, timestep: Tensor, ids: Tensor, _lengths: Tensor) -> Tensor:
        sigma = (1 - timestep)[:, None, None, None]
        picture: Tensor = self.embed(ids[:, 0])[..., None, None]
        return (picture - latents) / sigma


Train = Callable[..., tuple[Guess, list[dict[str, float]]]]


def guess(pictures: Tensor) -> TextToLatents:
    return cast("TextToLatents", Guess(pictures))  # it is called in the same way


def pool(height: int, width: int) -> Pool:
    ids = torch.arange(8)[:, None] % 2
    return Pool(PICTURES[ids[:, 0], :, None, None].expand(-1, -1, height // 8, width // 8), ids, torch.ones(8))


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """Train a guess that has nothing in mind, for so many seconds, each a step long; return it and the curve."""
    monkeypatch.setattr(flow, "SHARES", SIZES)
    monkeypatch.setattr(flow, "BATCH", dict.fromkeys(SIZES, 4))
    monkeypatch.setattr(flow, "WATCH_EVERY", 4)
    # A guess errs the more the less noise there is, so its loss jumps.
    monkeypatch.setattr(flow, "AT_LEVELS", 1.0)
    monkeypatch.setattr(optimizer, "BLOWN_UP", math.inf)

    def run(seconds: float, end: float = math.inf, **more: Any) -> tuple[Guess, list[dict[str, float]]]:
        clock = itertools.count()
        monkeypatch.setattr(flow, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        model = guess(torch.zeros_like(PICTURES))
        curve: list[dict[str, float]] = []
        options = {"on_watch": lambda _: None, **more}
        pools = {size: pool(*size) for size in SIZES}
        flow.train_flow(model, pools, seconds=seconds, end=end, state=tmp_path / "flow.pt", curve=curve, **options)
        return cast("Guess", model), curve

    return run


def test_what_leads_the_sampler_to_the_picture_has_no_loss() -> None:
    torch.manual_seed(0)
    right = guess(PICTURES)
    noisy, ids = torch.randn(2, 16, 8, 8), torch.tensor([[0], [1]])
    for sigma in LEVELS:
        output = right(noisy, (1 - sigma).expand(2), ids, torch.ones(2))
        drawn = euler_step(noisy, -output, sigma, torch.tensor(0.0))
        assert torch.allclose(drawn, PICTURES[..., None, None].expand_as(noisy), atol=1e-6)

    rows = torch.arange(8).repeat(50)
    assert flow.flow_loss(right, pool(64, 64), rows, LEVELS).item() == pytest.approx(0, abs=1e-6)
    assert flow.flow_loss(guess(-PICTURES), pool(64, 64), rows, LEVELS).item() > 0.01


def test_training_finds_the_pictures(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "RISE", 1)
    monkeypatch.setattr(flow, "RATE", 0.01)
    torch.manual_seed(0)
    model, curve = train(seconds=60)
    assert torch.allclose(model.embed.weight, PICTURES, atol=0.02)
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"]


def test_a_cut_run_goes_on_where_it_was(train: Train) -> None:
    _, first = train(seconds=1000, end=10)
    _, second = train(seconds=17)
    assert [entry["step"] for entry in first] == [4, 8]
    assert second[:2] == first
    assert [entry["step"] for entry in second] == [4, 8, 12]
    assert first[-1]["seconds"] < second[-1]["seconds"] < 17


def test_the_loss_after_a_resume_is_that_of_the_steps_since(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "flow_loss", lambda model, *_: 2 + 0 * model.embed.weight.sum())
    train(seconds=1000, end=7)  # six steps: the next entry comes two steps after the resume
    _, curve = train(seconds=12)
    assert [(entry["step"], entry["loss"]) for entry in curve] == [(4, 2.0), (8, 2.0)]


def test_a_killed_run_goes_on_from_what_was_saved_on_the_way(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flow, "SAVE_EVERY", 6.0)
    watched = itertools.count(1)

    def kill(_: object) -> None:
        if next(watched) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(seconds=1000, on_watch=kill)
    saved = torch.load(tmp_path / "flow.pt")
    assert saved["step"] == 8
    _, curve = train(seconds=saved["seconds"] + 6)
    assert [entry["step"] for entry in curve] == [4, 8, 12]


def test_a_state_half_written_leaves_the_one_before(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train(seconds=1000, end=10)

    def fill_the_disk(_: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        train(seconds=20)
    assert torch.load(tmp_path / "flow.pt")["step"] == 9
