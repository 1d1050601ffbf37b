"""The safetensors files of a checkpoint's component: one, or shards with their index, and what their headers say.

Only safetensors are read: they cannot run code.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.checkpoint.config import CheckpointError, Config, one_line

WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
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
            yield lambda name: opened[self.tensors[name].file].get_tensor(name)


def weight_files(folder: Path) -> WeightFiles:
    """Find the safetensors files of one component and read their headers.

    There is one file, or shards with their index.

    Raises:
        CheckpointError: none is there, one is missing or is no complete safetensors file.
    """
    index = _read_index(folder)
    paths = sorted(set(index.values())) or [_only_file(folder)]
    return WeightFiles(paths, index, {tensor.name: tensor for path in paths for tensor in _read_header(path)})


def _read_index(folder: Path) -> dict[str, Path]:
    for path in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = Config(path)["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{path}: weight_map is empty or no object, expected a file name for each tensor")
        index = {key: folder / str(name) for key, name in weight_map.items()}
        for key, file in index.items():
            if not file.is_file():
                raise CheckpointError(f"{file}: missing shard, {path.name} expects tensor {key!r} in it")
        return index
    return {}


def _only_file(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder}: holds {names} without an index, expected a single file, or shards with one")
    if any(folder.glob("*.bin")):
        raise CheckpointError(f"{folder}: holds only .bin weights, expected {WEIGHT_NAMES[0]} (pickles can run code)")
    raise CheckpointError(f"{folder}: missing weights, expected {' or '.join(WEIGHT_NAMES)} or shards with an index")


def _read_header(file: Path) -> Iterator[StoredTensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                header = tensors.get_slice(name)
                yield StoredTensor(file, name, tuple(header.get_shape()), header.get_dtype())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated or not safetensors: {one_line(error)}") from None
