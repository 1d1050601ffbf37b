"""Trains the small model: pictures, autoencoder, then text encoder and transformer together.

    python -m training.train --work DIR --out DIR [--autoencoder-seconds N] [--seconds N] [--stop-after N] [--seed N]

One CUDA device. Everything is made from the seed. What a run has done is kept in `--work` (3 GB), so a run that ends
after `--stop-after` seconds goes on where it was when it is started again. The checkpoint and the loss curves go to
`--out` at the end of each run.
"""

import argparse
import json
import math
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from transformers import AutoTokenizer

from pipeline.autoencoder import Autoencoder
from pipeline.scheduler import sigmas
from pipeline.transformer import TOKEN_MULTIPLE
from training.drawing import Layout, lay_out, render
from training.model import TextToLatents, build_autoencoder, save_weights, tokenize, write_checkpoint_files
from training.scenes import Scene, caption, held_out, sample_scene

CHUNK = 1000  # scenes that are laid out and drawn at a time
# Pictures by height and width. Most training is at 128², where 8 × 8 tokens suffice for all there is to draw.
POOL = {(128, 128): 220, (96, 128): 30, (128, 96): 30, (64, 64): 40, (192, 192): 20, (256, 256): 16}
SHARE = {(128, 128): 0.58, (96, 128): 0.1, (128, 96): 0.1, (64, 64): 0.08, (192, 192): 0.08, (256, 256): 0.06}
AUTOENCODER_BATCH_PIXELS = 128 * 128 * 160
BATCH = {(128, 128): 512, (96, 128): 512, (128, 96): 512, (64, 64): 512, (192, 192): 256, (256, 256): 160}
KL_WEIGHT = 5e-5
LATENT_NOISE = 0.06  # the decoder learns to bear what a denoiser leaves
SHIFT, STEPS = 3.0, 8
EMA = 0.999


@dataclass
class Pool:
    """Pictures of one size, as bytes or as latents, and what they show."""

    data: Tensor  # uint8 [N, 3, H, W], later bfloat16 [N, 16, H/8, W/8]
    ids: Tensor
    lengths: Tensor


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--autoencoder-seconds", type=float, default=150)
    parser.add_argument("--seconds", type=float, default=660, help="of text encoder and transformer, over all runs")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds after which this run ends")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.stop_after
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda")
    work: Path = arguments.work
    files = work / "checkpoint"
    if not files.exists():
        files.mkdir(parents=True)
        write_checkpoint_files(files)
    autoencoder = build_autoencoder(files).to(device)
    state = work / "autoencoder.pt"
    if state.exists():
        saved = torch.load(state, map_location="cuda")
        autoencoder.load_state_dict(saved["weights"])
        autoencoder.params = replace(autoencoder.params, scaling_factor=saved["scale"], shift_factor=saved["shift"])
        pools = {size: Pool(*tensors) for size, tensors in saved["pools"].items()}
    else:
        pools = draw_pools(files, device, arguments.seed)
        log("pictures drawn")
        curve = train_autoencoder(autoencoder, pools, arguments.autoencoder_seconds)
        (work / "autoencoder.json").write_text(json.dumps(curve))
        scale, shift = measure_scale(autoencoder, pools)
        autoencoder.params = replace(autoencoder.params, scaling_factor=scale, shift_factor=shift)
        encode_pools(autoencoder, pools)
        tensors = {size: (pool.data, pool.ids, pool.lengths) for size, pool in pools.items()}
        torch.save(
            {"weights": autoencoder.state_dict(), "scale": scale, "shift": shift, "pools": tensors},
            state,
        )
    log(f"latents made, scale {autoencoder.params.scaling_factor:.3f}")

    model = TextToLatents(files).to(device)
    train_model(model, pools, work, arguments.seconds, end)
    save_weights(files, model, autoencoder)
    export(files, work, arguments.out)


def log(message: str) -> None:
    """Say what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


# Pictures


def _make_chunk(job: tuple[int, int, int]) -> tuple[Layout, list[str]]:
    height, width, seed = job
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    scenes: list[Scene] = []
    captions: list[str] = []
    while len(scenes) < CHUNK:
        scene = sample_scene(rng)
        text = caption(scene, "en" if rng.random() < 0.5 else "zh", rng)
        if not held_out(text):
            scenes.append(scene)
            captions.append(text)
    return lay_out(scenes, height, width, seed), captions


def draw_pools(files: Path, device: torch.device, seed: int) -> dict[tuple[int, int], Pool]:
    """Draw the training pictures; scenes are laid out by all cores, pictures drawn on the device."""
    tokenizer = AutoTokenizer.from_pretrained(files / "tokenizer")
    pools = {}
    with multiprocessing.get_context("spawn").Pool() as processes:
        for (height, width), chunks in POOL.items():
            jobs = [(height, width, seed * 1_000_000 + height * 1000 + width + 7919 * n) for n in range(chunks)]
            pictures, captions = [], []
            for layout, texts in processes.imap(_make_chunk, jobs):
                picture = render(layout, height, width, device)
                pictures.append(((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
                captions += texts
            ids, lengths = tokenize(tokenizer, captions)
            pools[height, width] = Pool(torch.cat(pictures), ids.to(device), lengths.to(device))
    return pools


def batches(pools: dict[tuple[int, int], Pool], batch: dict[tuple[int, int], int]) -> Iterator[tuple[Pool, Tensor]]:
    """Give a pool and the rows of a batch, forever; sizes by their share."""
    rng = random.Random(0)  # noqa: S311 - pictures, not secrets
    while True:
        (size,) = rng.choices(list(SHARE), list(SHARE.values()))
        pool = pools[size]
        yield pool, torch.randint(len(pool.data), (batch[size],), device=pool.data.device)


# Autoencoder


def train_autoencoder(
    autoencoder: Autoencoder, pools: dict[tuple[int, int], Pool], seconds: float
) -> list[dict[str, float]]:
    """Train for so long; return the loss curve."""
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = Average(autoencoder)
    sizes = {size: max(8, AUTOENCODER_BATCH_PIXELS // (size[0] * size[1])) for size in POOL}
    start, curve = time.monotonic(), []
    for step, (pool, rows) in enumerate(batches(pools, sizes)):
        done = (time.monotonic() - start) / seconds
        if done >= 1:
            break
        set_rate(optimizer, 1e-3, done, step)
        images = (pool.data[rows].float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            mean, logvar = autoencoder.moments(images)
            noise = torch.randn_like(mean) * ((0.5 * logvar).exp() + LATENT_NOISE)
            decoded = autoencoder.decoder(mean + noise)
        error = decoded.float() - images
        kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        squared = error.square().mean()
        loss = error.abs().mean() + 2 * squared + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        if step % 100 == 0:
            psnr = -10 * math.log10(squared.item() / 4)
            curve.append({"step": step, "seconds": time.monotonic() - start, "loss": loss.item(), "psnr": psnr})
            if step % 500 == 0:
                log(f"autoencoder {step}: loss {loss.item():.4f}, {psnr:.1f} dB")
    average.copy_to(autoencoder)
    return curve


@torch.no_grad()
def measure_scale(autoencoder: Autoencoder, pools: dict[tuple[int, int], Pool]) -> tuple[float, float]:
    """Return the scale and shift that give latents mean 0 and variance 1."""
    with torch.autocast("cuda", torch.bfloat16):
        mean, _ = autoencoder.moments(pools[128, 128].data[:2000].float() / 127.5 - 1)
    return 1 / mean.float().std().item(), mean.float().mean().item()


@torch.no_grad()
def encode_pools(autoencoder: Autoencoder, pools: dict[tuple[int, int], Pool]) -> None:
    """Replace the pictures by their latents."""
    for (height, width), pool in pools.items():
        count = max(1, 500 * 128 * 128 // (height * width))
        with torch.autocast("cuda", torch.bfloat16):
            pool.data = torch.cat(
                [
                    autoencoder.encode(part.float() / 127.5 - 1).to(torch.bfloat16)
                    for part in torch.split(pool.data, count)
                ]
            )


# Text encoder and transformer


def train_model(
    model: TextToLatents, pools: dict[tuple[int, int], Pool], work: Path, seconds: float, end: float
) -> None:
    """Train by rectified flow (arXiv 2209.03003) until `seconds` of training are over or `end` has come.

    The model is only ever asked at the noise levels of its 8 steps, so most of the training is at exactly these.
    """
    decay: list[Tensor] = []
    plain: list[Tensor] = []
    time_path: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if "t_embedder" in name or "adaLN" in name:
            time_path.append(parameter)
        else:
            (decay if parameter.ndim > 1 else plain).append(parameter)
    # No norm bounds what the timestep multiplies: at the full rate its embedder grew a hundredfold, the loss with it.
    groups = [
        {"params": decay, "weight_decay": 0.02, "rate_share": 1.0},
        {"params": plain, "weight_decay": 0.0, "rate_share": 1.0},
        {"params": time_path, "weight_decay": 0.02, "rate_share": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    average = Average(model)
    step, spent, curve = 0, 0.0, []
    state = work / "model.pt"
    if state.exists():
        saved = torch.load(state, map_location="cuda")
        model.load_state_dict(saved["model"])
        average.weights = saved["average"]
        optimizer.load_state_dict(saved["optimizer"])
        step, spent, curve = saved["step"], saved["spent"], saved["curve"]
    torch._dynamo.config.recompile_limit = 64
    for block in [*model.transformer.noise_refiner, *model.transformer.layers]:
        block.compile(dynamic=False)  # all are one piece of code: compiled once for each number of tokens
    levels = sigmas(STEPS, SHIFT)[:-1].to("cuda")
    before = time.monotonic() - spent
    for pool, rows in batches(pools, BATCH):
        now = time.monotonic()
        spent = now - before
        if spent >= seconds or now >= end:
            break
        set_rate(optimizer, 8e-4, spent / seconds, step)
        loss = flow_loss(model, pool, rows, levels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(step)
        if step % 100 == 0:
            curve.append({"step": step, "seconds": spent, "loss": loss.item(), "size": pool.data.shape[-1] * 8})
            if step % 500 == 0:
                log(f"model {step}: loss {loss.item():.4f} at {spent:.0f} s")
        step += 1
    torch.save(
        {
            "model": model.state_dict(),
            "average": average.weights,
            "optimizer": optimizer.state_dict(),
            "step": step,
            "spent": spent,
            "curve": curve,
        },
        state,
    )
    (work / "model.json").write_text(json.dumps(curve))
    log(f"model: {step} steps in {spent:.0f} s")
    average.copy_to(model)


def flow_loss(model: TextToLatents, pool: Pool, rows: Tensor, levels: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity."""
    clean = pool.data[rows].float()
    count = len(rows)
    uniform = torch.rand(count, device=clean.device)
    anywhere = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    chosen = levels[torch.randint(len(levels), (count,), device=clean.device)]
    sigma = torch.where(torch.rand(count, device=clean.device) < 0.7, chosen, anywhere)
    noise = torch.randn_like(clean)
    blend = sigma[:, None, None, None]
    with torch.autocast("cuda", torch.bfloat16):
        output = model(
            (1 - blend) * clean + blend * noise, 1 - sigma, pool.ids[rows, :TOKEN_MULTIPLE], pool.lengths[rows]
        )
    return F.mse_loss(output.float(), clean - noise)


class Average:
    """Exponential moving average of weights, over fewer steps at the beginning."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = list(module.parameters())
        self.weights = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the present weights in."""
        weight = 1 - min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [parameter.detach() for parameter in self._parameters], weight)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Put the average into the module."""
        for parameter, weight in zip(module.parameters(), self.weights, strict=True):
            parameter.copy_(weight)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, done: float, step: int) -> None:
    """Learning rate: a short rise, level, then down to zero over the last 40 %."""
    rate = peak * min(1.0, (step + 1) / 300) * min(1.0, max(0.0, (1 - done) / 0.4))
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)


def export(files: Path, work: Path, out: Path) -> None:
    """Copy the checkpoint and the curves to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("transformer", "text_encoder", "vae"):
        (weights,) = (files / name).glob("*.safetensors")
        (out / f"{name}.safetensors").write_bytes(weights.read_bytes())
    rest = [file for file in files.rglob("*") if file.is_file() and file.suffix != ".safetensors"]
    (out / "files.json").write_text(json.dumps({str(file.relative_to(files)): file.read_text() for file in rest}))
    curves = {name: json.loads((work / f"{name}.json").read_text()) for name in ("autoencoder", "model")}
    (out / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
