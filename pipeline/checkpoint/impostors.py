"""Files that are not what their names say: pointers, web pages, other formats, halves. Their first bytes tell.

Text is safe to ask about. A safetensors file that can be read is not: its first bytes are a number.
"""

import codecs
import os
import re
from pathlib import Path

HEAD_BYTES = 512
AGAIN = "download it again"
NOT_IT = " in place of the file"
PICKLE = "which can run code: convert it to safetensors"

# What downloads that have not ended append to the file's name.
UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")

# In an editor's or PowerShell's encoding a pointer says what it says in UTF-8.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# What a file begins with, and what it is and what to do then.
SIGNATURES = (
    (
        rb"\s*version https://(git-lfs|hawser)\.github\.com/spec/",
        f"a Git LFS pointer{NOT_IT}: run `git lfs pull` in the clone it is from, or download the file itself",
    ),
    (
        rb"\s*(\.\./)*(\.git)?/annex/objects/",  # a link too, where there are none
        f"a git-annex pointer{NOT_IT}: run `git annex get` in the clone it is from, or download the file itself",
    ),
    (rb"\s*# xet version", f"a Git-Xet pointer{NOT_IT}: download the file itself"),
    (
        rb"(?is)\s*(<!--.*?-->\s*)*<(!doctype|html|head|body|title|meta|script|center|\?xml|error)\b",
        f"a web page or an answer in XML{NOT_IT}: {AGAIN}, and log in if it asks to",
    ),
    (rb"PK\x03\x04", f"a zip archive, as torch.save makes it of pickles, {PICKLE}"),
    (rb"\x80[\x02-\x05]", f"a Python pickle, {PICKLE}"),
    (rb"GGUF", "a GGUF file: take the checkpoint's safetensors"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file: unpack it"),
    (rb"\0{8}", f"zeros, where its download did not get to: {AGAIN}"),
)


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
        return _missing(path)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            head = head.decode(encoding, "ignore").encode()
    if len(head) < HEAD_BYTES and not head.strip():
        return f"is empty: {AGAIN}"
    for start, told in SIGNATURES:
        if re.match(start, head):
            return f"is {told}"
    if binary and (text := _text(head)):
        return f"is text that begins with {text.splitlines()[0][:60]!r}: {AGAIN}"
    return None


def byte_order_mark(path: Path) -> str | None:
    """Tell of a mark that readers of plain UTF-8 take for a part of the text; None: there is none."""
    with path.open("rb") as file:
        marked = file.read(4).startswith(tuple(MARKS))
    return "begins with a byte order mark: save it as UTF-8 without one" if marked else None


def _text(head: bytes) -> str | None:
    """The first bytes of a file as text, as of `Entry not found`, where a download was refused; None: they are none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head).strip()  # whose last letter may be cut
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None


def _missing(path: Path) -> str | None:
    if path.is_symlink():
        target = os.readlink(path)
        todo = "run `git annex get` in the clone" if "annex/objects" in target else AGAIN
        return f"is a link to {target}, which is not there: {todo}"
    for part in (path.with_name(path.name + ending) for ending in UNFINISHED):
        if part.exists():
            return f"is missing, and {part.name} is there, a download that has not ended: {AGAIN}"
    return None
