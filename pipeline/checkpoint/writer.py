"""Writing checkpoints: a directory that appears whole or not at all, and weights in shards, one in RAM at a time."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Give a directory to write into, which is renamed to `directory` at the end and removed after an error.

    Raises:
        FileExistsError: `directory` exists and is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory}: exists and is not empty")
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        draft.chmod(0o755)
        yield draft
        try:
            draft.rename(directory)
        except OSError as error:  # another process was first, or the disk failed
            if directory.exists():
                raise FileExistsError(f"{directory}: exists and is not empty") from error
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_weights(
    stem: Path, sizes: Mapping[str, int], make: Callable[[str], Mapping[str, Tensor]], shard_bytes: int
) -> None:
    """Make and write one shard after the other, so that RAM holds a single one; more than one get an index.

    Args:
        stem: path of the file without `.safetensors`.
        sizes: what to write, in order, and how many bytes each takes.
        make: the tensors of one of `sizes`, by the names that they get in the file.
        shard_bytes: what a file holds at most, unless a single one of `sizes` is larger.
    """
    shards = list(_shards(sizes, shard_bytes))
    if len(shards) == 1:
        names = [f"{stem.name}.safetensors"]
    else:
        names = [f"{stem.name}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    weight_map: dict[str, str] = {}
    for name, keys in zip(names, shards, strict=True):
        tensors = {stored: tensor for key in keys for stored, tensor in make(key).items()}
        save_file(tensors, stem.with_name(name), metadata={"format": "pt"})
        stem.with_name(name).chmod(0o644)  # save_file lets only its user read it
        weight_map |= dict.fromkeys(tensors, name)
        del tensors  # before the next shard is made
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(stem.with_name(f"{stem.name}.safetensors.index.json"), index)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as people like to read it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(sizes: Mapping[str, int], shard_bytes: int) -> Iterator[list[str]]:
    """Cut the names, in order, into shards of at most `shard_bytes`."""
    keys: list[str] = []
    total = 0
    for key, size in sizes.items():
        if keys and total + size > shard_bytes:
            yield keys
            keys, total = [], 0
        keys.append(key)
        total += size
    yield keys
