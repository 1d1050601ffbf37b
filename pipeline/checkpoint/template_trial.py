"""Whether a chat template can be rendered, tried in a process of its own: a template is a program.

It comes with a checkpoint, and may loop for ever or fill all memory. Jinja's sandbox keeps it from files and network,
but not from that, and within Python neither can be stopped. So the process is given little time and little memory.

    echo '["{{ 1 / 0 }}", {}, 5]' | python -P pipeline/checkpoint/template_trial.py    # says what is wrong
"""

import functools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPU_SECONDS = 5.0  # a template takes milliseconds; what others do on this machine does not count
WALL_SECONDS = 120.0
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 100_000  # that a chat has beside what is said in it; the model reads 512 tokens

# Templates may tell chats apart: an empty one, a worker's first one, several scripts, more than the model reads.
SAID = ("", "warm-up", "x", "a red fox in the snow, 4k", "雪中的红狐狸\n", "🦊 " * 2, "a long prompt, " * 300)

_BUNDLED = Path(__file__).parents[1] / "models/tiny/tokenizer/chat_template.jinja"


def template_fault(template: str, special_tokens: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a chat template, in one line; None: it can be rendered.

    Args:
        template: Jinja's text.
        special_tokens: the tokenizer's, which templates may name.
    """
    if template == _BUNDLED.read_text(encoding="utf-8"):
        return None  # ours; a process takes half a second, since transformers does to be imported
    return _tried(json.dumps([template, dict(special_tokens), CPU_SECONDS], default=str))


@functools.cache
def _tried(asked: str) -> str | None:
    try:
        trial = subprocess.run(  # noqa: S603 - this file; run by its path, since the package imports torch
            [sys.executable, "-P", __file__],
            input=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {WALL_SECONDS:.0f} s"
    if trial.returncode == -signal.SIGPROF:
        return f"takes longer than {CPU_SECONDS:g} s"
    if trial.returncode:
        return f"the process that renders it ends with {trial.returncode}"
    return " ".join(trial.stdout.split()) or None


def _fault(template: str, special_tokens: Mapping[str, Any], cpu_seconds: float) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_resources(cpu_seconds)
    chats = [[{"role": "user", "content": said}] for said in SAID]
    try:
        rendered: Any = render_jinja_template(
            chats, chat_template=template, add_generation_prompt=True, enable_thinking=True, **special_tokens
        )
    except MemoryError:
        return f"takes more than {MEMORY_BYTES >> 30} GiB of memory"
    except Exception as error:  # noqa: BLE001 - a template raises what it likes
        return str(error)[:500] or "it fails, and does not say why"
    for text, said in zip(rendered[0], SAID, strict=True):
        if len(text) > MAX_CHARACTERS + len(said):
            return f"gives {len(text)} characters for a prompt of {len(said)}"
    return None


def _limit_resources(cpu_seconds: float) -> None:
    """Limit what this process may take from now on."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # of its CPU time; then SIGPROF ends it
    if sys.platform == "linux":  # others don't hold it
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    print(_fault(*json.load(sys.stdin)) or "")
