"""Weights from files to the device: finds the files, checks every name and shape, and loads tensor by tensor.

A checkpoint is a directory in diffusers' layout: `model_index.json` and the folders `transformer`, `vae`,
`text_encoder`, `tokenizer` and `scheduler`. Only safetensors are read: they cannot run code. A weight `X` may be stored
in fp8, with its scales `[rows, 1]` as `X_scale` beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.checkpoint.config import CheckpointError, Config, one_line
from pipeline.formats.fp8 import Rows, dequantize, set_fp8_weight, takes_fp8

ModuleT = TypeVar("ModuleT", bound=nn.Module)

WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
DTYPES = ("BF16", "F16", "F32", "F64")
FP8_DTYPE = "F8_E4M3"
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


@dataclass(frozen=True)
class Weights(Generic[ModuleT]):
    """The weights of one component, found to be complete and of the right shapes, and not read yet."""

    module: ModuleT  # on the meta device
    files: WeightFiles
    holds: dict[str, list[str]]  # for each stored tensor the module's tensors that it is, one below the other

    def load(self, device: torch.device, dtype: torch.dtype | None) -> ModuleT:
        """Give the module its weights, each straight from its file: there is never a second copy of the model in RAM.

        On the CPU a tensor that is stored as `dtype`, or any without a `dtype`, stays in the file's pages.

        Args:
            device: where the parameters go.
            dtype: what floating-point type they become. None: they stay what they are, for `quantization.settle_`; a
                layer in fp8 then has `weight_scale` too, and its forward does not work.
        """
        shapes = {key: tensor.shape for key, tensor in self.module.state_dict().items()}
        state: dict[str, Tensor] = {}
        quantized: dict[str, Rows] = {}
        with self.files.open() as read:
            for name, keys in self.holds.items():
                rows = [shapes[key][0] for key in keys]
                parts = zip(keys, torch.split(read(name), rows), strict=True)
                if self.files.tensors[name].dtype != FP8_DTYPE:
                    for key, part in parts:
                        state[key] = part.to(device).to(dtype or part.dtype)
                    continue
                scales = torch.split(read(f"{name}_scale"), rows)
                for (key, part), scale in zip(parts, scales, strict=True):
                    kept = dtype is None and takes_fp8(key, shapes[key])
                    weight = Rows(part.to(device), scale.to(device, torch.float32))
                    state[key] = weight.values if kept else dequantize(weight, dtype or torch.bfloat16)
                    if kept:
                        quantized[key] = weight
        self.module.load_state_dict(state, assign=True)
        for key, weight in quantized.items():
            set_fp8_weight(cast("nn.Linear", self.module.get_submodule(key.removesuffix(".weight"))), weight)
        return self.module.requires_grad_(False).eval()


def weight_files(folder: Path) -> WeightFiles:
    """Find the safetensors files of one component and read their headers.

    There is one file, or shards with their index.

    Raises:
        CheckpointError: none is there, one is missing or is no complete safetensors file.
    """
    index = _read_index(folder)
    paths = sorted(set(index.values())) or [_only_file(folder)]
    return WeightFiles(paths, index, {tensor.name: tensor for path in paths for tensor in _read_header(path)})


def examine(
    files: WeightFiles,
    build: Callable[[], ModuleT],
    *,
    stored_as: Callable[[str], str] = lambda key: key,
    ignore: Callable[[str], bool] = lambda _: False,
) -> Weights[ModuleT]:
    """Build a module without memory of its own, and compare with it what the files hold.

    Args:
        files: of one component of a checkpoint.
        build: makes the module; called with the meta device as default.
        stored_as: the name in the files of a tensor, by its name in the module; tensors that share one are stored as
            one, one below the other in the module's order.
        ignore: tells, by its name in the files, which tensor the module does without.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen or not floating-point; or what `build` raises.
    """
    with torch.device("meta"):
        module = build()
    holds: dict[str, list[str]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for key, tensor in module.state_dict().items():
        name = stored_as(key)
        holds.setdefault(name, []).append(key)
        rows, *rest = tensor.shape
        expected[name] = (expected.get(name, (0,))[0] + rows, *rest)
    for name, found in files.tensors.items():
        if found.dtype == FP8_DTYPE and len(found.shape) == 2:
            expected[f"{name}_scale"] = (found.shape[0], 1)
    for name, found in files.tensors.items():
        if name in expected:
            _check(found, expected[name], files)
        elif not ignore(name):
            raise CheckpointError(f"{found.file}: unexpected tensor {name!r}, the model has none such")
    for name in holds:
        if name not in files.tensors:
            file = files.index.get(name, files.paths[0])
            raise CheckpointError(f"{file}: missing tensor {name!r}, expected shape {_shape(expected[name])}")
    return Weights(module, files, holds)


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


def _check(tensor: StoredTensor, expected: tuple[int, ...], files: WeightFiles) -> None:
    start = f"{tensor.file}: tensor {tensor.name!r}"
    if tensor.shape != expected:
        raise CheckpointError(f"{start} has shape {_shape(tensor.shape)}, expected {_shape(expected)}")
    scale = f"{tensor.name}_scale"
    if tensor.dtype in DTYPES or (tensor.dtype == FP8_DTYPE and scale in files.tensors):
        return
    choice = " or ".join(DTYPES)
    if not tensor.name.endswith("_scale"):
        choice += f", or {FP8_DTYPE} with its scales as {scale!r} beside it, as `zimage checkpoint quantize` makes it"
    raise CheckpointError(f"{start} is stored as {tensor.dtype}, expected {choice}")


def _shape(shape: tuple[int, ...]) -> str:
    return str(list(shape))
