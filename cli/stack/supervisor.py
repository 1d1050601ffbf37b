"""Keeps child processes running: starts them together, restarts those that die, stops them in order, orphans none.

One thread does all of it. It has to: Linux sends the signal of `PR_SET_PDEATHSIG` when the *thread* that started a
child ends, so the thread must live as long as its children.
"""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.exit_codes import FINAL

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 15.0
HEALTHY_SECONDS = 10.0  # a part that lived this long starts over with the first backoff
HOPELESS_DEATHS = 3  # in a row, before anybody waits any longer for a part to become ready
FULL_BYTES, ROOM_BYTES = 2**20, 2**24  # less than the one is left on a full disk; from the other on there is room again

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Part:
    """A process to keep running.

    Attributes:
        name: what it is called.
        command: what is executed.
        environ: all of its environment.
        cwd: where it runs.
        log: where its output goes.
        stop_seconds: how long it may take to stop.
        umask: of its files; -1: as this process's own.
        remembers_full_disk: it writes no more once the disk below `cwd` was full. So it is started anew when there is
            room again.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    cwd: Path
    log: Path
    stop_seconds: float = 10.0
    umask: int = -1
    remembers_full_disk: bool = False


class HopelessError(RuntimeError):
    """A part that no restart can mend; the message says what it said."""


class _Child:
    """A part's present process and its record of deaths."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.deaths = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at: float | None = None
        self._disk_was_full = False

    def start(self) -> None:
        parent = os.getpid()

        def die_with_parent() -> None:
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:  # it died before the call above
                    os._exit(1)

        self.part.log.parent.mkdir(parents=True, exist_ok=True)
        # The first start empties the log of an earlier run, so that its last line is about this one.
        with self.part.log.open("ab" if self.process else "wb") as output:
            self.process = subprocess.Popen(  # noqa: S603
                self.part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.part.environ,
                cwd=self.part.cwd,
                umask=self.part.umask,
                process_group=0,  # Ctrl-C in the terminal reaches us alone; we stop the parts in order
                preexec_fn=die_with_parent,
            )
        self._started_at = time.monotonic()
        self._restart_at = None

    def tend(self) -> bool:
        """Notice a death, restart when the backoff is over; tell whether a new process was started.

        Raises:
            HopelessError: it says at its first start that a setting is wrong, or this machine unfit; no restart mends
                that.
        """
        if self.process is None:
            return False
        if self.process.poll() is None:
            self._mind_the_disk()
            return False
        now = time.monotonic()
        if self._restart_at is None:
            # However long it took to find that out: on a busy machine a worker reads its model late.
            if self.process.returncode in FINAL and self.deaths == 0:
                raise HopelessError(self.last_words())
            # One that ended by itself and in order was told to by somebody, and is simply replaced.
            healthy = now - self._started_at >= HEALTHY_SECONDS or self.process.returncode == 0
            self.deaths = 1 if healthy else self.deaths + 1
            backoff = min(FIRST_BACKOFF * 2 ** (self.deaths - 1), LONGEST_BACKOFF)
            self._restart_at = now + backoff
            log.warning("%s, starting it again in %.1f s", self.last_words(), backoff)
        if now < self._restart_at:
            return False
        try:
            self.start()
        except OSError as error:  # no memory or no process to be had: later, perhaps
            log.warning("%s can't be started now: %s", self.part.name, error)
            self._restart_at = now + LONGEST_BACKOFF
            return False
        return True

    def _mind_the_disk(self) -> None:
        """End a process that remembers a full disk once there is room again."""
        if not self.part.remembers_full_disk:
            return
        free = shutil.disk_usage(self.part.cwd).free
        if free < FULL_BYTES:
            self._disk_was_full = True
        elif self._disk_was_full and free >= ROOM_BYTES:
            self._disk_was_full = False
            log.warning("the disk was full: %s is started anew, now that there is room", self.part.name)
            _stop([self])

    def last_words(self) -> str:
        """Tell how the process ended; if by itself, with the last line of its log."""
        status = self.process.returncode if self.process else None
        if status is not None and status < 0:
            return f"{self.part.name} was killed by signal {-status} (log: {self.part.log})"
        lines = self.part.log.read_text(errors="replace")[-4096:].split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{self.part.name} ended with status {status} (log: {self.part.log}): {last}"


class Supervisor:
    """Runs stages of parts. All start together; they stop stage by stage, the last one first."""

    def __init__(self, stages: Iterable[Iterable[Part]], on_start: Callable[[dict[str, int]], None]) -> None:
        """Prepare; `start` starts.

        Args:
            stages: parts in the order in which they depend on each other.
            on_start: called with the process id of each part, by name, whenever a part has been started.
        """
        self._stages = [[_Child(part) for part in stage] for stage in stages]
        self._on_start = on_start
        self._failure: str | None = None
        self._stopping = threading.Event()
        # Waited for in place of the thread: a `join` that a signal interrupts takes the thread for ended (Python 3.11).
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    @property
    def _children(self) -> list[_Child]:
        return [child for stage in self._stages for child in stage]

    def start(self) -> None:
        """Start every part, and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop every part: SIGTERM, then SIGKILL for those that outlast their `stop_seconds`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._ended.wait()

    def wait(self) -> str:
        """Block until the supervision ends; return why it did."""
        self._ended.wait()
        return self._failure or "stopped"

    def pids(self) -> dict[str, int]:
        """Return the process id of each part's present, or latest, process."""
        return {child.part.name: child.process.pid for child in self._children if child.process}

    def hopeless(self) -> str | None:
        """Tell of a part that could not be started at all, or of one that died again and again; None: there is hope."""
        dying = (child.last_words() for child in self._children if child.deaths >= HOPELESS_DEATHS)
        return self._failure or next(dying, None)

    def _run(self) -> None:
        try:
            for child in self._children:
                child.start()
            self._on_start(self.pids())
            while not self._stopping.wait(POLL_SECONDS):
                started = [child for child in self._children if child.tend()]
                if started:
                    self._on_start(self.pids())
        except (OSError, HopelessError) as error:
            self._failure = str(error)
        finally:
            for stage in reversed(self._stages):
                _stop(stage)
            self._ended.set()


def _stop(stage: Iterable[_Child]) -> None:
    running = [(child, child.process) for child in stage if child.process and child.process.poll() is None]
    for _, process in running:
        process.terminate()
    began = time.monotonic()
    for child, process in running:
        try:
            process.wait(max(0.0, began + child.part.stop_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.info("%s did not stop within %.1f s: killing it", child.part.name, child.part.stop_seconds)
            process.kill()
            process.wait()
