"""Workers of one machine take different GPUs."""

import subprocess
import sys
from pathlib import Path

from support.root import ROOT

GPUS = ("GPU-1", "GPU-2")
CLAIM = (
    "import sys; from pathlib import Path; from worker.executor.gpu_claim import claim_first\n"
    "print(claim_first(sys.argv[2:], Path(sys.argv[1])), flush=True)\n"
    "sys.stdin.read()"
)


class Worker:
    """A process that claims a GPU and lives until it is killed."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", CLAIM, str(folder), *GPUS]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.gpu = GPUS[int(self.process.stdout.readline())]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_each_worker_takes_another_gpu_and_the_one_of_a_dead_worker_is_free_again(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "gpus"
    workers = [Worker(folder) for _ in range(3)]
    try:
        # More workers than GPUs: the preferred one is shared.
        assert [worker.gpu for worker in workers] == ["GPU-1", "GPU-2", "GPU-1"]
        workers[1].kill()
        workers.append(Worker(folder))
        assert workers[-1].gpu == "GPU-2"
    finally:
        for worker in workers:
            worker.kill()
