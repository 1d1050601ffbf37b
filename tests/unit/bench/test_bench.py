"""Benchmarks measure what they say, and their commands say what is wrong."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import torch

from bench import events, gallery, pipeline, queue
from bench.quality import adherence
from pipeline import ZImagePipeline


def test_no_prompt_is_drawn_twice_whose_features_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def generate(prompt: str, **_: Any) -> SimpleNamespace:
        prompts.append(prompt)
        return SimpleNamespace(timings={"denoise": 0.1}, peak_vram_bytes=0)

    monkeypatch.setattr(pipeline, "LOAD_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "IDLE_SECONDS", 0.0)
    drawing = cast("ZImagePipeline", SimpleNamespace(generate=generate))
    for size in (128, 256):
        pipeline.measure_size(partial(pipeline.draw, drawing, size), repeats=3)
    assert len(set(prompts)) == len(prompts) == 20


def test_the_queue_is_filled_with_different_prompts() -> None:
    def accept(request: httpx.Request) -> httpx.Response:
        return httpx.Response(202, json=json.loads(request.content))

    with httpx.Client(base_url="http://service", transport=httpx.MockTransport(accept)) as http:
        prompts = {queue.submit(http)[0]["prompt"] for _ in range(3)}
    assert len(prompts) == 3


def test_a_change_that_a_stream_passed_over_is_as_late_as_the_next_event() -> None:
    changes = {1: 10.0, 2: 11.0, 3: 12.0, 4: 13.0}
    seen = [(1, 10.5), (2, 11.25), (4, 13.5)]
    assert events.delays(changes, seen) == [0.25, 1.5, 0.5]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Run a command's `main` in an empty folder; return the code or message it ended with."""
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[], None], *words: str) -> object:
        monkeypatch.setattr("sys.argv", ["bench", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    return run


def test_a_model_that_is_not_there_is_told_in_a_line(ended: Callable[..., object]) -> None:
    message = ended(adherence.main, "--model", "/nope", "--prompts", "10")
    expected = "no such directory, expected a checkpoint directory, a hub id org/name or s3://bucket/prefix"
    assert message == f"ZIMAGE_MODEL: /nope: {expected}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "cpu", "--quantizations", "fp8"], "compute capability 8.9"),
        pytest.param([], "--device cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")),
    ],
)
def test_what_the_device_cannot_is_told_in_a_line(
    ended: Callable[..., object], capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert ended(pipeline.main, *words) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_asking_the_gallery_for_help_draws_nothing(ended: Callable[..., object], tmp_path: Path) -> None:
    assert ended(gallery.main, "--help") == 0
    assert list(tmp_path.iterdir()) == []
