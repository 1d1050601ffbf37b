"""Where the service keeps what it can make or fetch again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings
from support.root import ROOT


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "/home/someone/.cache/zimage"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/zimage"),
        ({"XDG_CACHE_HOME": "/caches", "ZIMAGE_CACHE_DIR": "/mine"}, "/mine"),
    ],
)
def test_the_cache_is_the_users_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "ZIMAGE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **environ}.items():
        monkeypatch.setenv(name, value)

    assert Settings().cache_dir == Path(expected)


def test_kernels_are_kept_in_it_from_before_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from worker.executor.kernel_cache import keep_kernels\n"
        "keep_kernels(Path(sys.argv[1])); assert 'torch' not in sys.modules\n"
        "print(os.environ['TRITON_CACHE_DIR'])"
    )
    environ = {key: value for key, value in os.environ.items() if key != "TRITON_CACHE_DIR"}
    for given, expected in (({}, str(tmp_path / "triton")), ({"TRITON_CACHE_DIR": "/mine"}, "/mine")):
        told = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            cwd=ROOT,
            env={**environ, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == expected
