"""The safetensors files of a checkpoint's component: one, or shards with their index, and what their headers say.

Only safetensors are read: they cannot run code. Variants (fp16, say) have other names; where one lies beside the plain
files, these are taken.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.checkpoint.config import CheckpointError, Config, one_line
from pipeline.checkpoint.impostors import AGAIN, UNFINISHED, impostor
from pipeline.checkpoint.read_ahead import read_ahead

WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
PLAIN_NAMES = (*(f"{name}.index.json" for name in WEIGHT_NAMES), *WEIGHT_NAMES)  # the first one there is taken
SHARD = r"-\d+-of-\d+"
INDICES = "*.safetensors.index*.json"  # diffusers and transformers put the variant before or behind `index`
CHECKPOINT_FILES = ("*.json", "*.jinja", "*.safetensors", "tokenizer/*")  # of all that may lie beside them


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the file's header describes it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # in safetensors' words: BF16, F8_E4M3 …


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files of one component, and what they hold."""

    paths: list[Path]
    index: dict[str, Path]  # the file that the index, if there is one, names for each tensor
    tensors: dict[str, StoredTensor]  # by name

    @contextmanager
    def open(self) -> Iterator[Callable[[str], Tensor]]:
        """Give a function from a tensor's name to the tensor, whose values stay in the file's pages until used."""
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in self.paths}
            read_ahead(self.paths)
            yield lambda name: opened[self.tensors[name].file].get_tensor(name)


def weight_files(folder: Path) -> WeightFiles:
    """Find the safetensors files of one component and read their headers; what else lies there is not read.

    There is one file, or shards with their index.

    Raises:
        CheckpointError: none is there, one is missing or is no complete safetensors file, or it is not plain which of
            them are meant.
    """
    files = {path.name: path for path in sorted(folder.glob("[!.]*.safetensors"))}
    for name in PLAIN_NAMES:
        if name in files:
            return _with_headers([files[name]], {})
        if index := _index_in_use(folder / name, files):
            return _shards(name, index)
    indices = {path.name: _index_in_use(path, files) for path in sorted(folder.glob(INDICES))}
    shards = {file.name for index in indices.values() for file in index.values()}
    chosen = _only([*filter(indices.get, indices), *(name for name in files if name not in shards)], folder)
    return _with_headers([files[chosen]], {}) if chosen in files else _shards(chosen, indices[chosen])


def _with_headers(paths: list[Path], index: dict[str, Path]) -> WeightFiles:
    return WeightFiles(paths, index, {tensor.name: tensor for path in paths for tensor in _read_header(path)})


def _shards(name: str, index: dict[str, Path]) -> WeightFiles:
    for key, file in index.items():
        if not _is_there(file):
            raise CheckpointError(f"{file}: {impostor(file) or 'missing shard'}, {name} expects tensor {key!r} in it")
    return _with_headers(sorted(set(index.values())), index)


def _index_in_use(path: Path, files: Collection[str]) -> dict[str, Path]:
    """The file that an index names for each tensor; empty of one that came along without its shards, or is not there.

    Where there are no weights at all, it tells what is missing.

    Raises:
        CheckpointError: it can't be read, and shards of its name are there.
    """
    if not _is_there(path):
        return {}
    try:
        index = _read_index(path)
    except CheckpointError:
        shards = {_variant(name) for name in files if re.search(SHARD, name)}
        if files and _variant(path.name) not in shards:
            return {}
        raise
    return index if not files or any(map(_is_there, index.values())) else {}


def _variant(name: str) -> str:
    """What the names of an index and of its shards have in common."""
    return re.sub(rf"{SHARD}|\.safetensors|\.index|\.json", "", name)


def _read_index(path: Path) -> dict[str, Path]:
    weight_map = Config(path)["weight_map"]
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is empty or no object, expected a file name for each tensor")
    for key, name in weight_map.items():
        if name != Path(str(name)).name:
            raise CheckpointError(
                f"{path}: weight_map[{key!r}] is {json.dumps(name)}, expected the name of a file beside it"
            )
    return {key: path.with_name(name) for key, name in weight_map.items()}


def _is_there(file: Path) -> bool:
    return os.path.lexists(file)  # a link to nothing too: it is told of when it is read


def _only(names: list[str], folder: Path) -> str:
    """The one weight file or index of a variant that there is."""
    if len(names) == 1:
        return names[0]
    if names:
        told = ", ".join(names)
        if any(name.endswith(".json") for name in names):
            raise CheckpointError(f"{folder}: holds several variants ({told}), expected one of them, or a plain one")
        raise CheckpointError(f"{folder}: holds {told} without an index, expected a single file, or shards with one")
    if any(folder.glob("*.bin")):
        raise CheckpointError(f"{folder}: holds only .bin weights, expected {WEIGHT_NAMES[0]} (pickles can run code)")
    for file in sorted(folder.glob("*.safetensors.*")):
        if file.suffix in UNFINISHED:
            raise CheckpointError(f"{file}: is a download that has not ended: {AGAIN}")
    raise CheckpointError(f"{folder}: missing weights, expected {' or '.join(WEIGHT_NAMES)} or shards with an index")


def _read_header(file: Path) -> Iterator[StoredTensor]:
    if file.with_name(f"{file.name}.aria2").exists():  # it writes from both ends, so the header may be there
        raise CheckpointError(f"{file}: its download by aria2 has not ended: go on with it, or {AGAIN}")
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                header = tensors.get_slice(name)
                yield StoredTensor(file, name, tuple(header.get_shape()), header.get_dtype())
    except OSError as error:
        raise CheckpointError(f"{file}: {impostor(file) or one_line(error)}") from None
    except SafetensorError as error:
        told = _cut_short(file) or impostor(file, binary=True) or f"truncated or not safetensors: {one_line(error)}"
        raise CheckpointError(f"{file}: {told}") from None


def _cut_short(file: Path) -> str | None:
    """Tell that a file ends before the last of the tensors that its header names; None: that is not what is wrong."""
    there = file.stat().st_size
    with file.open("rb") as content:
        whole = 8 + int.from_bytes(content.read(8), "little")
        if content.read(1) != b"{":
            return None
        if whole <= there:
            content.seek(8)
            try:
                tensors = json.loads(content.read(whole - 8))
                whole += max(tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__")
            except (ValueError, LookupError, TypeError, AttributeError):
                return None
    return f"truncated: {there:,} bytes of {whole:,}: {AGAIN}" if there < whole else None
