"""Weights from files to the device: checks every name and shape against the network, and loads tensor by tensor.

A weight `X` may be stored in a number format, with its scales `[rows, 1]` beside it. Strays are passed over.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.checkpoint.config import CheckpointError
from pipeline.checkpoint.files import StoredTensor, WeightFiles
from pipeline.checkpoint.strays import is_stray
from pipeline.formats.quantizing import set_quantized_weight
from pipeline.formats.registry import FORMATS, find_stored
from pipeline.formats.row_format import Rows

log = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DTYPES = ("BF16", "F16", "F32", "F64")
NAMED = 3  # tensors that a message names at most


@dataclass(frozen=True)
class Weights(Generic[ModuleT]):
    """The weights of one component, found to be complete and of the right shapes, and not read yet."""

    module: ModuleT  # on the meta device
    files: WeightFiles  # without strays
    holds: dict[str, list[str]]  # for each stored tensor the module's tensors that it is, one below the other

    def load(self, device: torch.device, dtype: torch.dtype | None) -> ModuleT:
        """Give the module its weights, each straight from its file: there is never a second copy of the model in RAM.

        On the CPU a tensor that is stored as `dtype`, or any without a `dtype`, stays in the file's pages.

        Args:
            device: where the parameters go.
            dtype: what floating-point type they become. None: they stay what they are, for
                `formats.quantizing.settle_`; a layer in a number format then has `weight_scale` too, and its forward
                does not work.
        """
        shapes = {key: tensor.shape for key, tensor in self.module.state_dict().items()}
        state: dict[str, Tensor] = {}
        quantized: dict[str, Rows] = {}
        with self.files.open() as read:
            for name, keys in self.holds.items():
                rows = [shapes[key][0] for key in keys]
                parts = zip(keys, torch.split(read(name), rows), strict=True)
                number_format = find_stored(self.files.tensors[name].dtype)
                if number_format is None:
                    for key, part in parts:
                        state[key] = part.to(device).to(dtype or part.dtype)
                    continue
                scales = torch.split(read(number_format.scale_name(name)), rows)
                for (key, part), scale in zip(parts, scales, strict=True):
                    kept = dtype is None and number_format.takes(key, shapes[key])
                    weight = Rows(part.to(device), scale.to(device, torch.float32))
                    state[key] = weight.values if kept else weight.dequantize(dtype or torch.bfloat16)
                    if kept:
                        quantized[key] = weight
        self.module.load_state_dict(state, assign=True)
        for key, weight in quantized.items():
            set_quantized_weight(cast("nn.Linear", self.module.get_submodule(key.removesuffix(".weight"))), weight)
        return self.module.requires_grad_(False).eval()


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

    Strays (`strays.is_stray`) are told of in the log and left out.

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
        if (number_format := find_stored(found.dtype)) and len(found.shape) == 2:
            expected[number_format.scale_name(name)] = (found.shape[0], 1)
    _check_each(files, expected)
    others = [found for name, found in files.tensors.items() if name not in expected and not ignore(name)]
    strays = _strays(others, {name: expected[name] for name in holds})
    if missing := [name for name in holds if name not in files.tensors]:
        first = missing[0]
        file, shape = files.index.get(first, files.paths[0]), _shape(expected[first])
        raise CheckpointError(f"{file}: missing tensor {first!r}, expected shape {shape}{_and_more(missing)}")
    if strays:
        file, names = files.tensors[strays[0]].file, f"{strays[0]!r}{_and_more(strays)}"
        log.warning("%s: the model has no use for the tensor %s: passed over", file, names)
    used = {name: found for name, found in files.tensors.items() if name not in strays}
    return Weights(module, replace(files, tensors=used), holds)


def _check_each(files: WeightFiles, expected: Mapping[str, tuple[int, ...]]) -> None:
    misfits = {
        name: told
        for name, found in files.tensors.items()
        if name in expected and (told := _misfit(found, expected[name], files))
    }
    if misfits:
        raise CheckpointError(next(iter(misfits.values())) + _and_more(list(misfits)))


def _strays(others: Sequence[StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the names of tensors that the network has no place for; refuse those of another architecture."""
    foreign = [found for found in others if not is_stray(found, expected)]
    if foreign:
        file, name, more = foreign[0].file, foreign[0].name, _and_more([found.name for found in foreign])
        raise CheckpointError(f"{file}: unexpected tensor {name!r}, the model has none such{more}")
    return [found.name for found in others]


def _misfit(tensor: StoredTensor, expected: tuple[int, ...], files: WeightFiles) -> str | None:
    """Tell what is wrong with a tensor's shape or type."""
    start = f"{tensor.file}: tensor {tensor.name!r}"
    if tensor.shape != expected:
        return f"{start} has shape {_shape(tensor.shape)}, expected {_shape(expected)}"
    number_format = find_stored(tensor.dtype)
    if tensor.dtype in DTYPES or (number_format and number_format.scale_name(tensor.name) in files.tensors):
        return None
    choice = " or ".join(DTYPES)
    if not tensor.name.endswith("_scale"):
        for known in FORMATS.values():
            scale = known.scale_name(tensor.name)
            choice += f", or {known.stored_as} with its scales as {scale!r} beside it"
        choice += ", as `zimage checkpoint quantize` makes it"
    return f"{start} is stored as {tensor.dtype}, expected {choice}"


def _and_more(names: Sequence[str]) -> str:
    """What to say of all names but the first, which is named already."""
    if len(names) == 1:
        return ""
    told = ", ".join(map(repr, names[1:NAMED]))
    return f" (and {len(names) - 1} more: {told}{', …' if len(names) > NAMED else ''})"


def _shape(shape: tuple[int, ...]) -> str:
    return str(list(shape))
