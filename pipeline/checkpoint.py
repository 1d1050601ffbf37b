"""Weights from disk or hub to the device: finds the files, checks every name and shape, and loads tensor by tensor.

A checkpoint is a directory in diffusers' layout: `model_index.json` and the folders `transformer`, `vae`,
`text_encoder`, `tokenizer` and `scheduler`. Only safetensors are read: they cannot run code.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
DTYPES = ("BF16", "F16", "F32", "F64")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer/*"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: one line that names the file, the key and what was expected."""


class Config:
    """The JSON object of one file; its complaints name the file and the key.

    Raises CheckpointError for a missing file, broken JSON, and a missing or mistyped field.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing file") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable as JSON: {_one_line(error)}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds a JSON {type(values).__name__}, expected an object")
        self.values: dict[str, Any] = values

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise CheckpointError(f"{self.path}: missing field {key!r}")
        return self.values[key]

    def integer(self, key: str) -> int:
        """The whole number > 0 at `key`."""
        value: int = self._typed(key, "a whole number > 0", _is_count)
        return value

    def number(self, key: str) -> float:
        """The finite number at `key`."""
        return float(self._typed(key, "a number", lambda value: isinstance(value, int | float)))

    def integers(self, key: str) -> tuple[int, ...]:
        """The whole numbers > 0 at `key`."""
        return tuple(
            self._typed(key, "a list of whole numbers > 0", lambda v: isinstance(v, list) and all(map(_is_count, v)))
        )

    def expect(self, key: str, *allowed: Any, default: Any = None) -> None:
        """Refuse the file unless `key`, or `default` where it is absent, holds one of `allowed`."""
        found = self.values.get(key, default)
        if found not in allowed:
            raise CheckpointError(f"{self.path}: {key} is {found!r}, expected {' or '.join(map(repr, allowed))}")

    def _typed(self, key: str, expected: str, valid: Callable[[Any], bool]) -> Any:
        value = self[key]
        if isinstance(value, bool) or not valid(value):
            raise CheckpointError(f"{self.path}: {key} is {value!r}, expected {expected}")
        return value


def locate(path_or_id: str | Path) -> Path:
    """The checkpoint's directory; an id such as `Tongyi-MAI/Z-Image-Turbo` is downloaded from the hub, or its cache.

    Raises CheckpointError when there is neither such a directory nor such a repository.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.exists() or not HUB_ID.fullmatch(str(path_or_id)):
        raise CheckpointError(f"{path_or_id}: no such directory, expected a checkpoint directory or a hub id org/name")
    import httpx
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_id), allow_patterns=HUB_FILES))
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise CheckpointError(f"{path_or_id}: no such directory, and no such hub id: {_one_line(error)}") from error


def load(
    folder: Path,
    build: Callable[[Config], ModuleT],
    device: torch.device,
    dtype: torch.dtype,
    *,
    prefix: str = "",
    ignore: Callable[[str], bool] = lambda _: False,
) -> ModuleT:
    """Build a module from `folder/config.json` without memory of its own, then give it the folder's weights.

    Every name and shape is checked before the first tensor is read; then each goes straight to `device` and `dtype`, so
    there is never a second copy of the model in RAM.

    Args:
        folder: one component of a checkpoint, with `config.json` and one safetensors file or shards with their index.
        build: makes the module from its config; called with the meta device as default.
        device: where the parameters go.
        dtype: what floating-point type they become.
        prefix: dropped from the start of each stored name that has it.
        ignore: tells, by its name without the prefix, which stored tensor the module does without.

    Raises:
        CheckpointError: a file or tensor is missing, unexpected, misshapen, truncated or not floating-point.
    """
    config = Config(folder / "config.json")
    with torch.device("meta"):
        module = build(config)
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found: set[str] = set()
    files, home = weight_files(folder)
    for file in files:
        found |= _check(file, expected, prefix, ignore)
    for key in expected:
        if key not in found:
            file = home.get(prefix + key) or home.get(key) or files[0]
            raise CheckpointError(f"{file}: missing tensor {key!r}, expected shape {_shape(expected[key])}")

    state: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for stored in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                if (key := stored.removeprefix(prefix)) in expected:
                    state[key] = tensors.get_tensor(stored).to(device, dtype)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def weight_files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """The safetensors files of one component, and which file the index, if there is one, names for each tensor."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = Config(index)["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: weight_map is empty or no object, expected a file name for each tensor")
        home = {key: folder / str(name) for key, name in weight_map.items()}
        for key, file in home.items():
            if not file.is_file():
                raise CheckpointError(f"{file}: missing shard, {index.name} expects tensor {key!r} in it")
        return sorted(set(home.values())), home
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return [folder / name], {}
    if any(folder.glob("*.bin")):
        raise CheckpointError(f"{folder}: holds only .bin weights, expected {WEIGHT_NAMES[0]} (pickles can run code)")
    raise CheckpointError(f"{folder}: missing weights, expected {' or '.join(WEIGHT_NAMES)} or shards with an index")


def _check(file: Path, expected: dict[str, tuple[int, ...]], prefix: str, ignore: Callable[[str], bool]) -> set[str]:
    """Compare the header of one file with what the module expects; returns the names of its tensors."""
    found = set()
    try:
        with safe_open(file, framework="pt") as tensors:
            for stored in tensors.keys():  # noqa: SIM118
                key = stored.removeprefix(prefix)
                if key not in expected:
                    if ignore(key):
                        continue
                    raise CheckpointError(
                        f"{file}: unexpected tensor {stored!r}, the model of config.json has none such"
                    )
                header = tensors.get_slice(stored)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != expected[key]:
                    raise CheckpointError(
                        f"{file}: tensor {stored!r} has shape {_shape(shape)}, expected {_shape(expected[key])}"
                    )
                if dtype not in DTYPES:
                    raise CheckpointError(
                        f"{file}: tensor {stored!r} is stored as {dtype}, expected {' or '.join(DTYPES)}"
                    )
                found.add(key)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated or not safetensors: {_one_line(error)}") from None
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shape(shape: tuple[int, ...]) -> str:
    return str(list(shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
