"""CUDA graphs: what one function launches, recorded once for each shape of its inputs and replayed from then on.

Launching from Python takes longer than the GPU needs for small pictures, and longer still while other threads hold the
interpreter.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from pipeline import memory_sizes

KEPT_GRAPHS = 32  # the ones used last; each takes a few MB beside the memory that all share

Output = TypeVar("Output", bound=Tensor | tuple[Tensor, ...])


def worthwhile(tokens: int) -> bool:
    """Whether what is done with so many tokens, of all rows, is better replayed."""
    return tokens <= memory_sizes.GRAPH_TOKENS


class Graphs(Generic[Output]):
    """Replays `run` for tensors of shapes, and other inputs of values, that it has seen.

    `run` maps CUDA tensors, and whatever else, to one tensor or several, without waiting for the GPU; it must not keep
    anything from one call to the next.
    """

    def __init__(self, run: Callable[..., Output]) -> None:
        self.run = run
        self.pool = torch.cuda.MemPool()  # one runs after the other, so they share their memory
        self.graphs: dict[tuple[Any, ...], Graph[Output]] = {}

    @torch.inference_mode()  # a recording is replayed in the mode that it was made in, whatever the caller's is
    def __call__(self, *inputs: Any) -> Output:
        """What `run` gives for `inputs`."""
        key = tuple(x.shape if isinstance(x, Tensor) else x for x in inputs)
        graph = self.graphs.pop(key, None) or Graph(self.run, inputs, self.pool.id)
        self.graphs[key] = graph
        if len(self.graphs) > KEPT_GRAPHS:
            del self.graphs[next(iter(self.graphs))]
        return graph.replay(inputs)


class Graph(Generic[Output]):
    """One recording, with the tensors that it reads and those that it writes."""

    def __init__(self, run: Callable[..., Output], inputs: tuple[Any, ...], pool: Any) -> None:
        self.inputs = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        stream = _stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are compiled and workspaces made before the recording
            run(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, stream=stream):
            self.output = run(*self.inputs)

    def replay(self, inputs: tuple[Any, ...]) -> Output:
        """Run the recording on other values; the answer's tensors are its own."""
        for recorded, given in zip(self.inputs, inputs, strict=True):
            if isinstance(recorded, Tensor):
                recorded.copy_(given)
        self.graph.replay()
        output: Any = self.output
        copy = output.clone() if isinstance(output, Tensor) else tuple(x.clone() for x in output)
        return cast("Output", copy)


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """The stream of all recordings on a device: cuBLAS keeps 64 MiB for each stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
