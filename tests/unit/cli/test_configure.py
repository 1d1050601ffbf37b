"""`zimage configure`: what it chooses, where its figures come from, and what it asks."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.configure import cards, table
from cli.configure.recorded import RESULTS
from cli.main import app
from pipeline import driver
from pipeline.formats import fp8
from support.root import ROOT


def configure(*arguments: str, code: int = 0) -> str:
    """What it prints: the file, or why not."""
    told = CliRunner().invoke(app, ["configure", *arguments])
    assert told.exit_code == code, told.output
    assert (told.stdout == "") is bool(code)
    return told.stdout or told.stderr


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ZIMAGE_(\w+)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("arguments", "quantization", "budget"),
    [
        (["--gpu", "RTX 3060"], "none", "11GiB"),
        (["--gpu", "NVIDIA A100-SXM4-80GB"], "none", None),
        (["--gpu", "RTX 4060 Ti 16GB"], "fp8", "15GiB"),
        (["--gpu", "4090", "--vram", "8GiB", "--goal", "throughput"], "fp8", "7GiB"),
        (["--gpu", "NVIDIA H100 80GB HBM3"], "fp8", None),
        (["--vram", "24GiB"], "none", "23GiB"),
        (["--gpu", "Voodoo 9000", "--vram", "96GB"], "none", None),
    ],
)
def test_fp8_is_for_cards_that_have_it_and_a_budget_for_those_that_are_small(
    arguments: list[str], quantization: str, budget: str | None
) -> None:
    chosen = settings(configure(*arguments))
    assert (chosen["QUANTIZATION"], chosen.get("VRAM_BUDGET")) == (quantization, budget)
    assert chosen["DEVICE"] == "gpu"


def test_capabilities_are_those_of_the_pipeline() -> None:
    assert (cards.LEAST_CAPABILITY, cards.FP8_CAPABILITY) == (driver.LEAST_CAPABILITY, fp8.CAPABILITY)


def test_least_memory_is_less_than_what_is_there() -> None:
    sizes = {goal: settings(configure("--gpu", "RTX 3060", "--goal", goal)) for goal in ("latency", "memory")}
    latency, memory = (float(chosen["VRAM_BUDGET"].removesuffix("GiB")) for chosen in sizes.values())
    assert memory < latency / 2


@pytest.mark.parametrize("gpu", ["H100", "RTX 3060", "cpu"])
def test_each_figure_names_the_record_that_it_comes_from(gpu: str) -> None:
    text = " ".join(re.sub(r"^# *", "", line) for line in configure("--gpu", gpu).splitlines())
    sources = re.findall(r"\[\d\] bench/results/(\S+): ", text)
    assert sources
    for file in sources:
        recorded = json.loads((RESULTS / file).read_text())
        assert f"{file}: {recorded['device']}, {recorded['command']}" in text
    kinds = re.findall(r": (\S+) \S+(?: all workers)?, (measured|estimated)", text)
    assert {kind for _, kind in kinds} == {"estimated" if gpu == "RTX 3060" else "measured"}
    if gpu == "H100":
        pipeline = json.loads((RESULTS / "pipeline-h100.json").read_text())["fp8"]["sizes"]["1024"]
        assert [float(value.replace(",", "")) for value, _ in kinds] == [
            pytest.approx(pipeline["total_ms"] / 1000, rel=5e-3),
            pytest.approx(
                json.loads((RESULTS / "service-h100-fp8.json").read_text())["all_at_once"]["images_per_second"],
                rel=5e-3,
            ),
            round(pipeline["peak_mib"]),
        ]


def test_the_docs_have_the_tables_that_it_makes() -> None:
    shown = re.search(r"<!-- cards: .*? -->\n(.*?)\n<!-- /cards -->", (ROOT / "docs/models.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == table.markdown()


def test_a_budget_that_failed_is_told_beside_those_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"total_ms": 1500.0, "times_resident": 2.0, "new_prompt_extra_ms": 90.0, "peak_mib": 8e3, "pinned_mib": 1e4}
    cases = {"none:8GiB": {**drawn, "streamed": {"text_encoder": 35, "transformer": 18}}, "fp8:1GiB": {"failed": "no"}}
    record = {"device": "a GPU", "command": "python -m bench", "pinned_gb_per_second": 55.2, "cases": cases}
    monkeypatch.setattr(table, "read", lambda _file: record)
    assert table.limited().splitlines()[-2:] == [
        "| bf16 | 8GiB | 1,500 ms | 2.00 | +90 ms | 8,000 | 10,000 | 35 of the text encoder, 18 of the transformer |",
        "| fp8 | 1GiB | failed: no |",
    ]


def test_what_is_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["NVIDIA GeForce RTX 4070 Laptop GPU, 8188, 8.9"] * 2 + ["NVIDIA T4, 15360, 7.5"]
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = configure()
    assert "zimage configure --gpu 'NVIDIA GeForce RTX 4070 Laptop GPU' --vram 7.99609GiB --gpus 2" in told
    assert "Other cards are here, too" in told
    assert settings(told)["QUANTIZATION"] == "fp8"  # the driver says so, whatever is known of the name


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "nvidia-smi lists no GPU here: name one (--gpu 'RTX 4090'), or tell its memory (--vram 16GiB)"),
        (["--gpu", "Voodoo 9000"], 2, "tell its memory, too (--vram 16GiB)"),
        (["--vram", "lots"], 2, "expected bytes with their unit, such as 16GiB"),
        (["--gpu", "cpu", "--gpus", "2"], 2, "leave them out with --gpu cpu"),
        (["--gpu", "Tesla T4"], 1, "compute capability 7.5, and 8.0 is the least"),
        (["--gpu", "RTX 4090", "--vram", "512MiB"], 1, "is too little: the least for a picture"),
    ],
)
def test_what_can_not_be_is_told_in_a_line(
    arguments: list[str], code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    line = configure(*arguments, code=code)
    assert told in line
    assert len(line.splitlines()) == 1


def test_on_a_terminal_it_asks_for_what_is_not_given() -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "cli.main", "configure", "--gpu", "Voodoo 9000", "--gpus", "2"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        os.write(controller, b"much\n24GiB\n\ncommands\n")
        shown = b""
        try:
            while read := os.read(controller, 4096):
                shown += read
        except OSError:  # closed by its other end
            pass
    os.close(controller)
    text = shown.decode().replace("\r\n", "\n")
    assert process.returncode == 0, text
    assert re.search(r"Its memory.*?Error: bytes with their unit.*?Goal \(.*\) \[latency\]: .*Format", text, re.DOTALL)
    assert "How many" not in text
    assert text.endswith("export ZIMAGE_VRAM_BUDGET=23GiB\nzimage up --workers 2\n")
