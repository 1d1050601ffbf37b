"""Weights that are on the GPU only while they are needed, and otherwise in pinned host memory: a `Plan` carried out.

- `whole`: a part's weights come when its stage begins (the text encoder's when a prompt has to be read) and leave when
  it ends.
- `layers`: some of a part's layers stay. The others take turns in a `Ring` of buffers: while one computes, the next is
  fetched on a stream of its own. Only their matrices move; norms and biases stay. The ring is allocated once a stage.

Pixels are those of resident weights, to the bit: the same kernels read the same values at addresses of the same
alignment. What a CUDA graph has recorded reads fixed addresses, so parts whose weights move do without graphs.

Weights leave the GPU layer by layer as they are fused and quantised, so a load needs no more room than drawing does.
What loading takes beside them is memory of its own, so that weights lie side by side in the end: the gaps that it left
between them could be neither used by activations nor given back.
Host memory that can't be pinned is used as it is, which is slower.
"""

import logging
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.memory_plan import RESIDENT, RING, WHOLE, Plan

if TYPE_CHECKING:
    from pipeline.recipe import Parts, Recipe

log = logging.getLogger(__name__)

ALIGNMENT = 512  # bytes: that of what torch allocates, so that libraries choose the same kernels
STREAMED_DIMENSIONS = 2  # and more: what has fewer is small, and read by the layer before too


class Place(NamedTuple):
    """Where a module keeps a tensor: its dictionary of parameters or of buffers, and the name there."""

    owner: dict[str, Any]
    name: str

    @property
    def tensor(self) -> Tensor:
        """What is kept there now."""
        tensor: Tensor = self.owner[self.name]
        return tensor


class Packed:
    """Some tensors of modules, moved to one piece of host memory; they can be had in any other piece of the same size.

    Args:
        places: of the tensors.
        device: from which they are to be reached.
    """

    def __init__(self, places: Sequence[Place], device: torch.device) -> None:
        self._places = places
        tensors = [place.tensor.detach() for place in places]
        self._layout: list[tuple[int, Tensor]] = []  # where each begins; and it, without memory
        size = 0
        for tensor in tensors:
            self._layout.append((size, tensor.to("meta")))
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory = torch.empty(size, dtype=torch.uint8)
        if device.type == "cuda":
            pin(self.memory, device)
        self._home = self.views(self.memory)
        for view, tensor in zip(self._home, tensors, strict=True):
            view.copy_(tensor)
        self.unbind()

    def views(self, memory: Tensor) -> list[Tensor]:
        """The tensors as they lie in a piece of memory, uint8 `[bytes]`."""
        return [
            memory[start : start + like.nbytes].view(like.dtype).as_strided(like.shape, like.stride())
            for start, like in self._layout
        ]

    def bind(self, views: Sequence[Tensor]) -> None:
        """Have the modules use the tensors as they lie elsewhere."""
        for (owner, name), view in zip(self._places, views, strict=True):
            owner[name] = view

    def unbind(self) -> None:
        """Have the modules use those in host memory, with which nothing is computed."""
        self.bind(self._home)


class Lane:
    """Copies to a device beside what it computes, in the order in which they are asked for; on the CPU at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def mark(self) -> Any:
        """A point in what the device computes: behind all that has been queued."""
        return torch.cuda.current_stream(self._device).record_event() if self.stream else None

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copy from host memory to the device once it has got to a mark; return a mark behind the copy."""
        if self.stream is None:
            target.copy_(source)
            return None
        self.stream.wait_event(after)
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        return self.stream.record_event()

    def wait(self, mark: Any) -> None:
        """Have what is computed from now on wait for a copy."""
        if self.stream:
            torch.cuda.current_stream(self._device).wait_event(mark)


class Slot:
    """A buffer on the device that layers take turns in."""

    def __init__(self, memory: Tensor, free: Any) -> None:
        self.memory = memory
        self.layer: int | None = None
        self.free = free  # a mark behind the last use of it
        self.there: Any = None  # a mark behind the layer's arrival


class Ring:
    """Streams layers that are alike: each is fetched while the one before it computes.

    They announce themselves by hooks, and the model whose layers they are announces that they are about to run. What a
    step cache skips is not fetched, but for the first ones, which wait for their turn then.

    Args:
        device: where they compute.
        lane: of the copies.
    """

    def __init__(self, device: torch.device, lane: Lane) -> None:
        self._device, self._lane = device, lane
        self._layers: list[Packed] = []
        self._slots: list[Slot] = []
        self._views: dict[tuple[int, int], list[Tensor]] = {}  # of a layer in a slot

    def add(self, layer: nn.Module, packed: Packed) -> None:
        """Stream a layer too, behind those that were added before."""
        index = len(self._layers)
        self._layers.append(packed)
        layer.register_forward_pre_hook(lambda *_: self._arrive(index))
        layer.register_forward_hook(lambda *_: self._leave(index))

    def open(self) -> None:
        """Fetch the first layers, into buffers that are allocated the first time, unless they are there."""
        if not self._slots:
            size = max(packed.memory.numel() for packed in self._layers)
            self._slots = [
                Slot(torch.empty(size, dtype=torch.uint8, device=self._device), self._lane.mark())
                for _ in range(min(RING, len(self._layers)))
            ]
        self._fetch_all(range(len(self._slots)))

    def close(self) -> None:
        """Free the buffers, wherever the layers were stopped."""
        for slot in self._slots:
            if slot.layer is not None:
                self._lane.wait(slot.there)  # or its memory would be used for something else during the copy
                self._layers[slot.layer].unbind()
        self._slots, self._views = [], {}

    def _arrive(self, index: int) -> None:
        """Wait for a layer that is about to compute."""
        if not self._slots:
            self.open()
        slot = self._holding(index) or self._fetch(index, self._spare(range(index + 1, index + len(self._slots))))
        self._lane.wait(slot.there)
        self._layers[index].bind(self._views_in(index, slot))

    def _leave(self, index: int) -> None:
        """Fetch what comes next in place of a layer that has computed."""
        for slot in self._slots:
            if slot.layer == index:
                slot.free = self._lane.mark()
        self._layers[index].unbind()
        self._fetch_all(range(index + 1, min(index + 1 + len(self._slots), len(self._layers))))

    def _fetch_all(self, wanted: range) -> None:
        """Fetch those that are not there yet in place of others, no more of them than there are buffers."""
        for index in wanted:
            if not self._holding(index):
                self._fetch(index, self._spare(wanted))

    def _fetch(self, index: int, slot: Slot) -> Slot:
        packed = self._layers[index]
        slot.layer = index
        slot.there = self._lane.copy(slot.memory[: packed.memory.numel()], packed.memory, slot.free)
        return slot

    def _holding(self, index: int) -> Slot | None:
        return next((slot for slot in self._slots if slot.layer == index), None)

    def _spare(self, kept: range) -> Slot:
        """A buffer whose layer is none of those to be kept."""
        return next(slot for slot in self._slots if slot.layer not in kept)

    def _views_in(self, index: int, slot: Slot) -> list[Tensor]:
        key = index, self._slots.index(slot)
        if key not in self._views:
            self._views[key] = self._layers[index].views(slot.memory)
        return self._views[key]


class Visit:
    """Weights that come and leave together.

    Args:
        device: where they come to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._packed: list[Packed] = []
        self._there = False

    def add(self, packed: Packed) -> None:
        """Have these come too."""
        self._packed.append(packed)

    def open(self) -> None:
        """Bring them to the device, unless they are there."""
        if self._there:
            return
        self._there = True
        for packed in self._packed:
            memory = torch.empty_like(packed.memory, device=self._device)
            memory.copy_(packed.memory, non_blocking=True)
            packed.bind(packed.views(memory))

    def close(self) -> None:
        """Free what they take there."""
        for packed in self._packed:
            packed.unbind()
        self._there = False


class Placement:
    """Puts the weights of a pipeline's parts where a plan wants them.

    Args:
        plan: which stay, come and go.
        device: where the work is done.
        lane: of the copies to it.
    """

    def __init__(self, plan: Plan, device: torch.device, lane: Lane | None = None) -> None:
        self.plan, self._device = plan, device
        self._lane = lane or Lane(device)
        self._rings: dict[str, Ring] = {}
        self._visits = {part: Visit(device) for part, residency in plan.residency.items() if residency == WHOLE}
        self._settled: set[nn.Module] = set()
        self._loading: torch.cuda.Stream | None = None  # PyTorch keeps memory apart for each stream

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Load in memory that is given back in `install`: what stays is copied from there as it is settled."""
        if self._device.type != "cuda" or self.plan.budget_bytes is None:
            yield
            return
        self._loading = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._loading):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._loading)

    def first_place(self, part: str) -> torch.device:
        """Where a part's weights are to be loaded to: those that will not stay are not to fill the device."""
        return self._device if self.plan.residency[part] == RESIDENT else torch.device("cpu")

    def settle(self, part: str, index: int, layer: nn.Module) -> None:
        """Put one of a part's layers, counted from 0, where it belongs; what was settled is let be."""
        residency = self.plan.residency[part]
        if layer in self._settled:
            return
        self._settled.add(layer)
        places = _places(layer)
        if residency == WHOLE:
            self._visits[part].add(Packed(places, self._device))
            return
        if self._is_streamed(part, index):
            matrices = [place for place in places if place.tensor.dim() >= STREAMED_DIMENSIONS]
            places = [place for place in places if place.tensor.dim() < STREAMED_DIMENSIONS]
            ring = self._rings.setdefault(part, Ring(self._device, self._lane))
            ring.add(layer, Packed(matrices, self._device))
        self._keep(places)

    def install(self, parts: "Parts") -> None:
        """Settle what has not been yet, and have weights come and go with the stages."""
        modules = {"text_encoder": parts.text_encoder.model, "transformer": parts.transformer, "vae": parts.autoencoder}
        for part, residency in self.plan.residency.items():
            module, layers = modules[part], self.plan.layers(part)
            for index in range(layers):
                self.settle(part, index, module.get_submodule(f"layers.{index}"))
            apart = {inner for layer in self._settled for inner in layer.modules()}
            if part == "text_encoder" and residency != RESIDENT:
                # The table of token embeddings never comes: some of its rows do, looked up where it is.
                table = parts.text_encoder.model.embed_tokens
                table.register_forward_hook(lambda _table, _tokens, rows: rows.to(self._device))
                apart.add(table)
            rest = _places(module, apart)
            if residency != WHOLE:
                self._keep(rest)
            elif rest:
                self._visits[part].add(Packed(rest, self._device))
            if residency != RESIDENT:
                parts.presence[part] = self._presence(part, module)
        if self._loading:
            torch.cuda.empty_cache()

    def _keep(self, places: Sequence[Place]) -> None:
        """Have tensors on the device for good."""
        if self._loading is None:
            for place in places:
                place.tensor.data = place.tensor.data.to(self._device)
            return
        home = torch.cuda.default_stream(self._device)
        home.wait_stream(self._loading)
        with torch.cuda.stream(home):
            for place in places:
                place.tensor.data = place.tensor.data.to(self._device, copy=True)
        self._loading.wait_stream(home)  # before what was copied is overwritten

    def _presence(self, part: str, module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
        """The context in which a part is at work."""
        mover = self._visits.get(part) or self._rings.get(part)
        if mover is None:  # all its layers stay
            return nullcontext
        module.register_forward_pre_hook(lambda *_: mover.open())
        at_once = part != "text_encoder"  # which may have nothing to read: features of prompts are remembered

        @contextmanager
        def presence() -> Iterator[None]:
            try:
                if at_once:
                    mover.open()
                yield
            finally:
                mover.close()

        return presence

    def _is_streamed(self, part: str, index: int) -> bool:
        """Whether a layer is one of those that do not stay: they lie evenly among the others, the last layer included.

        So what a step cache runs first stays, where any does.
        """
        layers, streamed = self.plan.layers(part), self.plan.streamed[part]
        return (index + 1) * streamed // layers > index * streamed // layers


def pin(memory: Tensor, device: torch.device) -> None:
    """Pin host memory for as long as the tensor lives, so that it is copied to a GPU at full speed and without waiting.

    Torch's own pinned memory comes in powers of two: a layer would take up to twice its size.
    """
    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    error = cudart.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if int(error):
        _tell_refusal(cudart.cudaGetErrorString(error))
        with suppress(RuntimeError):  # the error stays until somebody asks, and the next kernel's launch would raise it
            torch.zeros(1, device=device)
        return
    weakref.finalize(memory, cudart.cudaHostUnregister, memory.data_ptr()).atexit = False


@cache
def _tell_refusal(reason: str) -> None:
    log.warning(
        "the host refuses pinned memory (%s): weights that come and go lie in pageable memory, and come at a third of "
        "the speed",
        reason,
    )


def _places(module: nn.Module, apart: Collection[nn.Module] = ()) -> list[Place]:
    """Where a module and those in it keep their tensors, but for some of them."""
    owners = [
        owner for inner in module.modules() if inner not in apart for owner in (inner._parameters, inner._buffers)
    ]
    return [
        Place(cast("dict[str, Any]", owner), name) for owner in owners for name, x in owner.items() if x is not None
    ]


def wrap(parts: "Parts", _recipe: "Recipe") -> None:
    """Have weights come and go as the plan wants it."""
    if parts.placement:
        parts.placement.install(parts)
