"""Files that are not what their names say: pointers, web pages, other formats. Their first bytes tell.

Text is safe to ask about. A safetensors file that can be read is not: its first bytes are a number.
"""

import os
import re
from pathlib import Path

HEAD_BYTES = 512
AGAIN = "download it again"
NOT_IT = " in place of the file"
PICKLE = "which can run code: convert it to safetensors"

# What a file begins with, and what it is and what to do then.
SIGNATURES = (
    (
        rb"version https://(git-lfs|hawser)\.github\.com/spec/",
        f"a Git LFS pointer{NOT_IT}: run `git lfs pull` in the clone it is from, or download the file itself",
    ),
    (
        rb"/annex/objects/",
        f"a git-annex pointer{NOT_IT}: run `git annex get` in the clone it is from, or download the file itself",
    ),
    (rb"# xet version", f"a Git-Xet pointer{NOT_IT}: download the file itself"),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|error)\b",
        f"a web page or an answer in XML{NOT_IT}: {AGAIN}, and log in if it asks to",
    ),
    (rb"PK\x03\x04", f"a zip archive, as torch.save makes it of pickles, {PICKLE}"),
    (rb"\x80[\x02-\x05]", f"a Python pickle, {PICKLE}"),
    (rb"GGUF", "a GGUF file: take the checkpoint's safetensors"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file: unpack it"),
    (rb"\0{8}", f"zeros, where its download did not get to: {AGAIN}"),
)
TEXT = re.compile(rb"\s*([ -~]{1,60})[\s -~]*")  # as `Entry not found`, where a download was refused


def impostor(path: Path, binary: bool = False) -> str | None:
    """Tell what a file is in place of what it should be, and what to do.

    Args:
        path: of the file.
        binary: whether all text is out of place in it.

    Returns:
        Words to go behind its name; None: it is nothing that is known here, or it is missing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return _dangling(path)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if not head:
        return f"is empty: {AGAIN}"
    for start, told in SIGNATURES:
        if re.match(start, head):
            return f"is {told}"
    if binary and (text := TEXT.fullmatch(head)):
        return f"is text that begins with {text[1].decode()!r}: {AGAIN}"
    return None


def _dangling(path: Path) -> str | None:
    if not path.is_symlink():
        return None
    target = os.readlink(path)
    todo = "run `git annex get` in the clone" if "annex/objects" in target else AGAIN
    return f"is a link to {target}, which is not there: {todo}"
