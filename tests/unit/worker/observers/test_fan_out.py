import pytest

from worker.held import HeldJob
from worker.observers.fan_out import FanOut
from worker.observers.observer import Observer


class Failing(Observer):
    def ended(self, _held: HeldJob, _outcome: str) -> None:
        raise RuntimeError("no space left")


class Listening(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def ended(self, _held: HeldJob, outcome: str) -> None:
        self.heard.append(outcome)


def test_an_observer_that_fails_keeps_nothing_from_the_others_or_the_job(caplog: pytest.LogCaptureFixture) -> None:
    listening = Listening()

    FanOut(Failing(), listening).ended(None, "succeeded")  # type: ignore[arg-type]  # neither looks at the job

    assert listening.heard == ["succeeded"]
    assert "no space left" in caplog.text
