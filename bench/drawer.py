"""A process that draws for a benchmark: what it is asked for, and what that took, are a line of JSON each."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Drawer:
    """Such a process; it ends with the context.

    Args:
        code: Python for it to run. It prints a line once it has loaded, and one for each line of standard input; where
            it can't, `{"failed": "why"}`.
        arguments: of the code.
        folder: where it runs.

    Raises:
        RuntimeError: it can't load; and whenever something is asked of it later, it can't draw.
    """

    def __init__(self, code: str, *arguments: str, folder: Path | None = None) -> None:
        command = [sys.executable, "-c", code, *arguments]
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loaded = self._answer()

    def draw(self, asked: Any) -> Any:
        """Have it draw what is asked for; return what it tells."""
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"ended with {self._process.wait()}"}
        if isinstance(answer, dict) and "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
