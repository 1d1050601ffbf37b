"""The supervisor with real, small processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.stack import supervisor as supervisor_module
from cli.stack.supervisor import Part, Supervisor
from support.waiting import wait_until

PATIENT = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def part(folder: Path, name: str, program: str, stop_seconds: float = 10) -> Part:
    return Part(name, [sys.executable, "-c", program], dict(os.environ), folder, folder / f"{name}.log", stop_seconds)


def no_news(_pids: dict[str, int]) -> None:
    pass


def test_a_killed_part_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    told: list[dict[str, int]] = []
    running = Supervisor([[part(tmp_path, "a", PATIENT)], [part(tmp_path, "b", PATIENT)]], told.append)
    running.start()
    try:
        wait_until(lambda: told)
        before = running.pids()
        os.kill(before["a"], signal.SIGKILL)
        wait_until(lambda: running.pids()["a"] != before["a"])
        wait_until(lambda: told[-1] == running.pids())
        assert running.pids()["b"] == before["b"]
    finally:
        running.stop()
    assert not any(psutil.pid_exists(pid) for pid in [*before.values(), *told[-1].values()])


def test_parts_stop_stage_by_stage_from_the_last(tmp_path: Path) -> None:
    goodbye = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path('order').open('a').write({name!r})))\n"
        "pathlib.Path({name!r}).touch(); time.sleep(600)"
    )
    stages = [[part(tmp_path, name, goodbye.format(name=name))] for name in "abc"]
    running = Supervisor(stages, no_news)
    running.start()
    wait_until(lambda: all((tmp_path / name).exists() for name in "abc"))
    running.stop()
    assert (tmp_path / "order").read_text() == "cba"


def test_a_part_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    running = Supervisor([[part(tmp_path, "deaf", STUBBORN, stop_seconds=0.2)]], no_news)
    running.start()
    wait_until(lambda: "deaf" in (tmp_path / "deaf.log").read_text() if (tmp_path / "deaf.log").exists() else False)
    pid = running.pids()["deaf"]
    running.stop()
    assert not psutil.pid_exists(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_part_that_remembers_a_full_disk_is_started_anew_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    forgetful = replace(part(tmp_path, "forgetful", PATIENT), cwd=disk)
    running = Supervisor([[replace(forgetful, name="s3", remembers_full_disk=True), forgetful]], no_news)
    try:
        running.start()
        wait_until(lambda: len(running.pids()) == 2)
        before = running.pids()
        (disk / "filler").write_bytes(bytes(24 << 20))
        time.sleep(3 * supervisor_module.POLL_SECONDS)
        assert running.pids() == before
        (disk / "filler").unlink()
        wait_until(lambda: running.pids()["s3"] != before["s3"])
        assert running.pids()["forgetful"] == before["forgetful"]
    finally:
        running.stop()
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_part_that_dies_again_and_again_is_hopeless_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_BACKOFF", 0.01)
    running = Supervisor([[part(tmp_path, "bad", "import sys; sys.exit('no such model')")]], no_news)
    running.start()
    try:
        wait_until(running.hopeless)
        assert running.hopeless() == f"bad ended with status 1 (log: {tmp_path}/bad.log): no such model"
    finally:
        running.stop()


@pytest.mark.parametrize("code", [2, 69])
def test_a_wrong_setting_or_an_unfit_machine_ends_everything_even_if_it_is_found_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(supervisor_module, "HEALTHY_SECONDS", 0.0)
    program = f"import sys; print('no such device'); sys.exit({code})"
    running = Supervisor([[part(tmp_path, "bad", program)]], no_news)
    running.start()
    assert running.wait() == f"bad ended with status {code} (log: {tmp_path}/bad.log): no such device"


@pytest.mark.parametrize("code", [0, 1, 70])
def test_what_may_pass_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_BACKOFF", 0.01)
    program = (
        "import pathlib, sys, time\n"
        f"if pathlib.Path('was').exists(): time.sleep(600)\npathlib.Path('was').touch(); sys.exit({code})"
    )
    told: list[dict[str, int]] = []
    running = Supervisor([[part(tmp_path, "a", program)]], told.append)
    running.start()
    try:
        wait_until(lambda: len(told) == 2)
        assert not running.hopeless()
    finally:
        running.stop()


def test_a_program_that_is_not_there_ends_everything_with_its_name(tmp_path: Path) -> None:
    missing = Part("ghost", ["/nonexistent/ghost"], {}, tmp_path, tmp_path / "ghost.log")
    running = Supervisor([[part(tmp_path, "a", PATIENT)], [missing]], no_news)
    running.start()
    assert "/nonexistent/ghost" in running.wait()
    assert not psutil.pid_exists(running.pids()["a"])
    running.stop()


def test_parts_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
import pathlib, sys, time
from cli.stack.supervisor import Part, Supervisor
folder = pathlib.Path({str(tmp_path)!r})
part = Part("a", [sys.executable, "-c", {PATIENT!r}], {{}}, folder, folder / "a.log")
Supervisor([[part]], lambda pids: print(pids["a"], flush=True)).start()
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
