"""What a process uses, as Linux tells it."""

import contextlib
import os
import re
from pathlib import Path

import psutil


def usage(process: psutil.Process) -> dict[str, int]:
    """Return what a process uses."""
    # Not psutil's list of connections: it leaves those out that the other side has reset, until they are closed.
    links = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(link))
    sockets = [link for link in links if link.startswith("socket:")]
    with process.oneshot():
        return {
            "rss_bytes": process.memory_info().rss,
            "threads": process.num_threads(),
            "sockets": len(sockets),
            "files": len(links) - len(sockets),
        }


def on_cpu(pid: int) -> dict[str, float]:
    """Return for how many seconds the main thread of a process ran so far, and waited for a core."""
    ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return {"ran_seconds": int(ran) / 1e9, "waited_seconds": int(waited) / 1e9}


def peak_rss(pid: int) -> int:
    """Return the most memory that a process ever had resident, in bytes."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak
    return int(peak[1]) * 1024
