"""Trains the small model: pictures, autoencoder, then text encoder and transformer together.

    python -m training.train --work DIR --out DIR [--autoencoder-seconds N] [--seconds N] [--stop-after N] [--seed N]

On one CUDA device; on the CPU it only shows that it works. The seed gives the pictures, the first weights, the batches
and the noise; the tokenizer and the order of picture sizes are the same for all seeds, and a run that goes on takes its
batches and noise from the number of its step. What a run has done is kept in `--work`: one that ends after
`--stop-after` seconds goes on where it was when it is started again, one that is killed goes on a little before.
`--out` is the checkpoint, with the loss curves beside it: at the end of each run, and while it trains as they are then.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from pipeline.model.autoencoder import Autoencoder
from training import autoencoding, flow
from training.curves import plot
from training.model import TextToLatents, build_autoencoder, save_weights, write_checkpoint_files
from training.optimizer import Average
from training.pictures import draw_pools

EXPORT_EVERY = 120.0  # seconds


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--autoencoder-seconds", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=850, help="of text encoder and transformer, over all runs")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds after which this run ends")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.stop_after
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work, out = arguments.work, arguments.out
    work.mkdir(parents=True, exist_ok=True)
    if not (out / "model_index.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        write_checkpoint_files(out)
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    curves: dict[str, list[dict[str, float]]] = {"flow": []}

    autoencoder = build_autoencoder(out).to(device)
    state = work / "autoencoder.pt"
    if state.exists():
        saved = torch.load(state, map_location=device)
        autoencoder.load_state_dict(saved["weights"])
        autoencoder.params = replace(autoencoder.params, scaling_factor=saved["scale"], shift_factor=saved["shift"])
        curves["autoencoder"] = saved["curve"]
    else:
        pictures = draw_pools(autoencoding.PICTURES, tokenizer, device, arguments.seed)
        log("pictures for the autoencoder drawn")
        curves["autoencoder"] = autoencoding.train_autoencoder(autoencoder, pictures, arguments.autoencoder_seconds)
        params = autoencoder.params
        saved = {"weights": autoencoder.state_dict(), "scale": params.scaling_factor, "shift": params.shift_factor}
        flow.write_state(state, saved | {"curve": curves["autoencoder"]})
        for size, pool in pictures.items():
            log(f"autoencoder at {size}: {autoencoding.reconstruction_psnr(autoencoder, pool.data[:200]):.1f} dB")
        del pictures

    pools = draw_pools(
        flow.PICTURES, tokenizer, device, arguments.seed + 1, lambda part: autoencoding.to_latents(autoencoder, part)
    )
    log("latents made")
    model, shown = TextToLatents(out).to(device), TextToLatents(out).to(device)
    exported = time.monotonic()

    def export_now_and_then(average: Average) -> None:
        nonlocal exported
        if time.monotonic() - exported > EXPORT_EVERY:
            average.copy_to(shown)
            export(out, shown, autoencoder, curves)
            exported = time.monotonic()

    flow.train_flow(
        model, pools, seconds=arguments.seconds, end=end, state=work / "flow.pt", curve=curves["flow"],
        on_watch=export_now_and_then,
    )  # fmt: skip
    export(out, model, autoencoder, curves)


def log(message: str) -> None:
    """Say what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def export(
    out: Path, model: TextToLatents, autoencoder: Autoencoder, curves: dict[str, list[dict[str, float]]]
) -> None:
    """Write the weights and the curves."""
    save_weights(out, model, autoencoder)
    (out / "curves.json").write_text(json.dumps(curves))
    plot(curves, out / "curves.png")


if __name__ == "__main__":
    main()
