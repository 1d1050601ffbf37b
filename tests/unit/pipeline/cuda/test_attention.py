"""Attention goes on by the next backend where one fails."""

import logging

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from pipeline.cuda import attention
from pipeline.cuda.attention import BACKENDS, attend_by_first

PLANS = "cuDNN Frontend error: [cudnn_frontend] Error: No execution plans support the graph."


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_failed", {})


class Card:
    """Attention on a card where some backends fail, as torch calls them: the first of those that are allowed."""

    def __init__(self, failing: dict[SDPBackend, str]) -> None:
        self.failing = failing
        self.asked: list[SDPBackend] = []

    def __call__(self) -> Tensor:
        backend = _cur_sdpa_kernel_backends(with_priority=True)[0]
        self.asked.append(backend)
        if backend in self.failing:
            raise RuntimeError(self.failing[backend])
        return torch.tensor(len(self.asked))


def test_a_backend_that_fails_is_passed_over_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    card = Card({SDPBackend.CUDNN_ATTENTION: PLANS, SDPBackend.FLASH_ATTENTION: "CUDA error: no kernel image"})
    with caplog.at_level(logging.WARNING):
        assert [int(attend_by_first("masked tokens", card)) for _ in range(2)] == [3, 4]
    assert card.asked == [*BACKENDS[:3], SDPBackend.EFFICIENT_ATTENTION]
    assert f"attention over masked tokens by CUDNN_ATTENTION fails: {PLANS}" in caplog.text


def test_a_backend_that_fails_for_one_kind_is_asked_for_another() -> None:
    attend_by_first("masked tokens", Card({SDPBackend.CUDNN_ATTENTION: PLANS}))
    card = Card({})
    attend_by_first("all tokens", card)
    assert card.asked == [SDPBackend.CUDNN_ATTENTION]


def test_the_first_error_is_told_where_none_works_and_the_next_call_tries_again() -> None:
    broken = Card(dict.fromkeys(BACKENDS, "CUDA error: an illegal memory access was encountered"))
    broken.failing[SDPBackend.CUDNN_ATTENTION] = PLANS
    with pytest.raises(RuntimeError, match="No execution plans"):
        attend_by_first("all tokens", broken)
    card = Card({})
    attend_by_first("all tokens", card)
    assert card.asked == [SDPBackend.CUDNN_ATTENTION]


@pytest.mark.parametrize("told", ["CUDA out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_too_little_memory_at_the_moment_gives_no_backend_up(told: str) -> None:
    error = torch.OutOfMemoryError if told == "CUDA out of memory" else RuntimeError

    def full() -> Tensor:
        raise error(told)

    with pytest.raises(RuntimeError, match=told):
        attend_by_first("all tokens", full)
    card = Card({})
    attend_by_first("all tokens", card)
    assert card.asked == [SDPBackend.CUDNN_ATTENTION]
