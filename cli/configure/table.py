"""The table of cards in docs/models.md: `python -m cli.configure.table` prints it."""

from cli.configure.cards import CARDS, LEAST_CAPABILITY, Card
from cli.configure.choice import choose
from cli.configure.estimates import Figure
from cli.gpus import GIB


def markdown_table() -> str:
    """Return the table: what `zimage configure` chooses for each card that it knows, and what it expects."""
    rows = ["| card | GiB | format | budget | new prompt → pixels | images/s | peak, MiB |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    rows += [_row(card) for card in CARDS if card.capability and card.capability >= LEAST_CAPABILITY]
    return "\n".join(rows)


def _row(card: Card) -> str:
    chosen = choose(card, 1, "latency")
    settings = chosen.deployment.settings
    cells = [
        card.name,
        f"{card.vram / GIB:g}",
        settings["ZIMAGE_QUANTIZATION"].replace("none", "bf16"),
        settings.get("ZIMAGE_VRAM_BUDGET", "–"),
        _cell(chosen.seconds, " s"),
        _cell(chosen.images_per_second),
        _cell(chosen.peak),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(figure: Figure | None, unit: str = "") -> str:
    if figure is None:
        return "–"
    if figure.how or figure.source is None:
        return f"≈ {figure}{unit}"
    return f"[{figure}{unit}](../bench/results/{figure.source.file})"


if __name__ == "__main__":
    print(markdown_table())
