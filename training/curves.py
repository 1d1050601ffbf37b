"""Plots the loss curves of a training: `python -m training.curves curves.json curves.png`."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

Curve = Sequence[Mapping[str, float]]


def plot(curves: Mapping[str, Curve], path: Path) -> None:
    """Write a PNG with the autoencoder's loss and PSNR and the flow's loss over the seconds of training."""
    mpl.use("Agg")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    _line(left, curves["autoencoder"], "loss", "C0", "autoencoder: loss")
    left.set_yscale("log")
    _line(left.twinx(), curves["autoencoder"], "psnr", "C1", "PSNR with noise on the latents, dB")
    _line(right, curves["flow"], "loss", "C0", "text encoder and transformer: loss")
    right.set_yscale("log")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _line(axes: Axes, curve: Curve, name: str, colour: str, title: str) -> None:
    axes.plot([entry["seconds"] for entry in curve], [entry[name] for entry in curve], color=colour)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(title, color=colour)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
