"""Trains text encoder and transformer together by rectified flow (arXiv 2209.03003) on latents.

A step is recorded once for each picture size as a CUDA graph, picking of the batch included: the network is so small
that launching its kernels from Python would take longer than running them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from pipeline.model.scheduler import sigmas
from training.model import TextToLatents
from training.optimizer import Average, Keeper, Optimizer, mixed_precision
from training.pictures import ImageSize, Pool, sizes_at_random

# Thousands of pictures. Most training is at 128², where 8 × 8 tokens suffice for all there is to draw.
PICTURES = {
    (128, 128): 300, (96, 128): 40, (128, 96): 40, (64, 64): 40, (128, 192): 30, (192, 128): 30, (256, 256): 40,
}  # fmt: skip
SHARES = {
    (128, 128): 0.58, (96, 128): 0.07, (128, 96): 0.07, (64, 64): 0.06, (128, 192): 0.05, (192, 128): 0.05,
    (256, 256): 0.12,
}  # fmt: skip
BATCH = {
    (128, 128): 384, (96, 128): 384, (128, 96): 384, (64, 64): 576, (128, 192): 288, (192, 128): 288,
    (256, 256): 128,
}  # fmt: skip
SHIFT, STEPS = 3.0, 8
AT_LEVELS = 0.7  # share of the training at the sampler's own noise levels; the rest is anywhere on the schedule
TIME_PATH = ("t_embedder", "adaLN")
MATRIX_RATE, RATE = 0.02, 1e-3
WATCH_EVERY = 500  # steps
SAVE_EVERY = 120.0  # seconds


def train_flow(
    model: TextToLatents,
    pools: dict[ImageSize, Pool],
    *,
    seconds: float,
    end: float,
    state: Path,
    curve: list[dict[str, float]],
    on_watch: Callable[[Average], None],
) -> None:
    """Train until `seconds` of training are over or the clock says `end`; go on from the file `state` and write it.

    The file is written every two minutes or so too, for a run that is killed. It lacks what `Keeper` holds, as much
    again, which matters after a blow-up alone: a run that goes on keeps its state anew at the first watch.

    Args:
        model: the networks; they hold the average of their weights in the end.
        pools: latents by picture size.
        seconds: of training, over all runs.
        end: of `time.monotonic`, when this run ends.
        state: file of a run that was cut or killed, if there is one.
        curve: gets an entry now and then: step, seconds and mean loss since the last entry, over all
            sizes and for each: a size that a compiled step got wrong would hide in the mean.
        on_watch: called then with the averaged weights, unless the run was just set back.
    """
    device = next(model.parameters()).device
    optimizer = Optimizer(model, matrix_rate=MATRIX_RATE, rate=RATE, outside=TIME_PATH)
    average = Average(model)
    keeper = Keeper(optimizer, average)
    totals = {size: torch.zeros((), device=device) for size in SHARES}
    counts = dict.fromkeys(SHARES, 0)
    levels = sigmas(STEPS, SHIFT)[:-1].to(device)

    def take_step(size: ImageSize) -> None:
        rows = torch.randint(len(pools[size].data), (BATCH[size],), device=device)
        loss = flow_loss(model, pools[size], rows, levels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals[size].add_(loss.detach())

    take_step(next(iter(SHARES)))  # makes the optimizer's state; moves nothing, since no rate is set yet
    run_step = _record(model, take_step) if device.type == "cuda" else take_step
    torch._foreach_zero_(list(totals.values()))
    step, before = 0, 0.0
    if state.exists():
        saved = torch.load(state, map_location=device)
        with torch.no_grad():
            torch._foreach_copy_(optimizer.state(), saved["optimizer"])
            torch._foreach_copy_(average.weights, saved["average"])
        step, before, optimizer.share = saved["step"], saved["seconds"], saved["share"]
        curve += saved["curve"]
        torch.manual_seed(step)  # other batches and noise than the steps before had
    start = saved_at = time.monotonic()
    spent = before

    def save() -> None:
        write_state(state, {
            "optimizer": optimizer.state(), "share": optimizer.share, "average": average.weights,
            "step": step, "seconds": spent, "curve": curve,
        })  # fmt: skip

    for size in sizes_at_random(SHARES, seed=step):
        now = time.monotonic()
        spent = before + now - start
        if spent >= seconds or now >= end:
            break
        optimizer.set_rate(step, spent / seconds)
        run_step(size)
        average.update(step)
        step += 1
        counts[size] += 1
        if step % WATCH_EVERY == 0:
            # After a resume these are fewer steps than WATCH_EVERY.
            loss = sum(total.item() for total in totals.values()) / sum(counts.values())
            by_size = {f"{h}x{w}": totals[h, w].item() / count for (h, w), count in counts.items() if count}
            curve.append({"step": step, "seconds": spent, "loss": loss, **by_size})
            print(f"flow {step}: {spent:.0f} s, loss {loss:.4f}, {by_size}", flush=True)
            torch._foreach_zero_(list(totals.values()))
            counts = dict.fromkeys(SHARES, 0)
            set_back = keeper.watch(loss)
            if now - saved_at >= SAVE_EVERY:
                save()
                saved_at = now
            if set_back:
                print("set back", flush=True)
            else:
                on_watch(average)
    save()
    average.copy_to(model)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write what a run goes on from; whenever it is killed, `path` holds the whole of the old or of the new."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _record(model: TextToLatents, take_step: Callable[[ImageSize], None]) -> Callable[[ImageSize], None]:
    """Return the step as CUDA graphs, one for each size.

    A graph knows its tensors by address: all that the step uses must live as long as the graphs are replayed. The steps
    before recording compile the layers; they too move nothing.
    """
    torch._dynamo.config.recompile_limit = 64
    for block in [*model.transformer.noise_refiner, *model.transformer.layers, *model.transformer.context_refiner]:
        block.compile(dynamic=False)  # all of a kind are one piece of code: compiled once for each number of tokens
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    memory = torch.cuda.graph_pool_handle()
    graphs: dict[ImageSize, torch.cuda.CUDAGraph] = {}
    for size in SHARES:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                take_step(size)
        torch.cuda.current_stream().wait_stream(stream)
        graphs[size] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[size], pool=memory):
            take_step(size)
    return lambda size: graphs[size].replay()


def flow_loss(model: TextToLatents, pool: Pool, rows: Tensor, levels: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity.

    The sampler asks the model at the noise levels of its 8 steps only, so most of the training is at exactly these.
    """
    clean, count = pool.data[rows].float(), len(rows)
    uniform = torch.rand(count, device=clean.device)
    anywhere = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    chosen = levels[torch.randint(len(levels), (count,), device=clean.device)]
    sigma = torch.where(torch.rand(count, device=clean.device) < AT_LEVELS, chosen, anywhere)
    noise, blend = torch.randn_like(clean), sigma[:, None, None, None]
    noisy = (1 - blend) * clean + blend * noise
    with mixed_precision(clean.device):
        output = model(noisy, 1 - sigma, pool.ids[rows], pool.lengths[rows])
    return F.mse_loss(output.float(), clean - noise)
