"""The tables in docs/models.md: `python -m cli.configure.table` prints them."""

from cli.configure.cards import CARDS, LEAST_CAPABILITY, Card
from cli.configure.choice import choose
from cli.configure.estimates import Figure
from cli.configure.recorded import RESULTS, read
from cli.gpus import GIB

LIMITED = "residency.json"
NAMES = {"none": "bf16"}  # of what has no number format


def markdown() -> str:
    """Return the table of cards and, once `bench.residency` has recorded it, that of a card held to budgets."""
    return "\n\n".join([cards(), *([limited()] if (RESULTS / LIMITED).exists() else [])])


def cards() -> str:
    """Return what `zimage configure` chooses for each card that it knows, and what it expects."""
    rows = ["| card | GiB | format | budget | new prompt → pixels | images/s | peak, MiB |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    rows += [_row(card) for card in CARDS if card.capability and card.capability >= LEAST_CAPABILITY]
    return "\n".join(rows)


def limited() -> str:
    """Return what was measured on a card whose memory was held to a budget, in turns with all weights resident."""
    record = read(LIMITED)
    rows = [
        f"Measured on one {record['device']} held to a budget, in turns with all weights resident, "
        f"{record['pinned_gb_per_second']:.0f} GB/s from pinned memory (`{record['command']}`, "
        f"[JSON](../bench/results/{LIMITED})):",
        "",
        "| format | budget | prompt → pixels | × resident | new prompt | peak, MiB | pinned, MiB | layers streamed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, found in record["cases"].items():
        quantization, _, budget = case.partition(":")
        if failed := found.get("failed"):
            rows.append(f"| {_format(quantization)} | {budget} | failed: {failed.replace('|', ' ')} |")
            continue
        cells = [
            _format(quantization),
            budget,
            f"{found['total_ms']:,.0f} ms",
            f"{found['times_resident']:.2f}",
            f"+{found['new_prompt_extra_ms']:,.0f} ms",
            f"{found['peak_mib']:,.0f}",
            f"{found['pinned_mib']:,.0f}",
            ", ".join(f"{count} of the {part.replace('_', ' ')}" for part, count in found["streamed"].items()),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _row(card: Card) -> str:
    chosen = choose(card, 1, "latency")
    settings = chosen.deployment.settings
    cells = [
        card.name,
        f"{card.vram / GIB:g}",
        _format(settings["ZIMAGE_QUANTIZATION"]),
        settings.get("ZIMAGE_VRAM_BUDGET", "–"),
        _cell(chosen.seconds, " s"),
        _cell(chosen.images_per_second),
        _cell(chosen.peak),
    ]
    return f"| {' | '.join(cells)} |"


def _format(quantization: str) -> str:
    return NAMES.get(quantization, quantization)


def _cell(figure: Figure | None, unit: str = "") -> str:
    if figure is None:
        return "–"
    if figure.how or figure.source is None:
        return f"≈ {figure}{unit}"
    return f"[{figure}{unit}](../bench/results/{figure.source.file})"


if __name__ == "__main__":
    print(markdown())
