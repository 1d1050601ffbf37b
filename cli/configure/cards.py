"""What is known of graphics cards: memory, compute capability, and what their speed is estimated by.

From NVIDIA's data sheets (A10, A100, L4, L40S, H100, H200, T4, V100) and architecture whitepapers (Ampere GA102, Ada,
Blackwell). Of GeForce cards that these don't list, bf16 is what NVIDIA's page of the card gives: four operations for
each CUDA core and clock at boost, as the whitepapers have it for those that they list.
"""

import re
from dataclasses import dataclass, replace

from cli.gpus import GIB, Gpu

# As `pipeline.driver` and `pipeline.formats.fp8` have them, which import torch.
LEAST_CAPABILITY, FP8_CAPABILITY = (8, 0), (8, 9)
PCIE_4_X8, PCIE_4, PCIE_5_X8, PCIE_5 = 15.8, 31.5, 31.5, 63.0  # GB/s, one way


@dataclass(frozen=True)
class Speed:
    """What the time of a picture is scaled by."""

    tflops: float  # TFLOP/s of bf16 tensor cores, dense, float32 accumulated; fp8 is twice that on cards that have it
    bandwidth: float  # GB/s of its memory
    link: float  # GB/s of its PCIe, one way


@dataclass(frozen=True)
class Card:
    """A kind of card; what is not known of it is None."""

    name: str
    vram: int  # bytes
    capability: tuple[int, int] | None = None
    speed: Speed | None = None

    @property
    def has_fp8(self) -> bool:
        """Whether its tensor cores are known to multiply in fp8."""
        return self.capability is not None and self.capability >= FP8_CAPABILITY


def _card(name: str, vram: float, capability: str, tflops: float, bandwidth: float, link: float) -> Card:
    major, minor = map(int, capability.split("."))
    return Card(name, int(vram * GIB), (major, minor), Speed(tflops, bandwidth, link))


# Of a name that several sizes share it is the smallest; of cards that spend memory on error correction, what is left.
CARDS = (
    _card("RTX 3060", 12, "8.6", 25.5, 360, PCIE_4),
    _card("RTX 3080", 10, "8.6", 59.5, 760, PCIE_4),
    _card("RTX 3090", 24, "8.6", 71, 936, PCIE_4),
    _card("RTX 4060", 8, "8.9", 30.2, 272, PCIE_4_X8),
    _card("RTX 4060 Ti", 8, "8.9", 44.1, 288, PCIE_4_X8),
    _card("RTX 4070", 12, "8.9", 58.3, 504, PCIE_4),
    _card("RTX 4080", 16, "8.9", 97.5, 717, PCIE_4),
    _card("RTX 4090", 24, "8.9", 165.2, 1008, PCIE_4),
    _card("RTX 5060 Ti", 8, "12.0", 47.4, 448, PCIE_5_X8),
    _card("RTX 5070", 12, "12.0", 61.7, 672, PCIE_5),
    _card("RTX 5070 Ti", 16, "12.0", 87.9, 896, PCIE_5),
    _card("RTX 5080", 16, "12.0", 112.6, 960, PCIE_5),
    _card("RTX 5090", 32, "12.0", 209.5, 1792, PCIE_5),
    _card("A10", 22.5, "8.6", 125, 600, PCIE_4),
    _card("A100", 40, "8.0", 312, 1555, PCIE_4),
    _card("A100 PCIe", 40, "8.0", 312, 1555, PCIE_4),
    _card("L4", 22.5, "8.9", 121, 300, PCIE_4),
    _card("L40S", 45, "8.9", 362, 864, PCIE_4),
    _card("H100 PCIe", 80, "9.0", 756, 2000, PCIE_5),
    _card("H100", 80, "9.0", 989, 3350, PCIE_5),
    _card("H200", 141, "9.0", 989, 4800, PCIE_5),
    # Known to be too old.
    Card("T4", 16 * GIB, (7, 5)),
    Card("V100", 16 * GIB, (7, 0)),
)

# What drivers and sellers put around the name that the tables have.
_AROUND = re.compile(r"\b(nvidia|geforce|tesla|sxm\d?|hbm\d\w?|(\d+) ?gi?b)\b", re.IGNORECASE)
_SIZE = re.compile(r"\b(\d+) ?gi?b\b", re.IGNORECASE)


def find(name: str) -> Card | None:
    """Return the card of a name as a driver or a person writes it ("NVIDIA A100-SXM4-80GB", "4090"); None: unknown."""
    spoken = name.replace("-", " ")
    key = _key(spoken)
    found = next((card for card in CARDS if key in (_key(card.name), _key(card.name).removeprefix("rtx"))), None)
    if found and (size := _SIZE.search(spoken)):
        return replace(found, vram=int(size[1]) * GIB)
    return found


def of_gpu(gpu: Gpu, vram: int) -> Card:
    """Return the card of a GPU that is here: what the driver tells goes before the table."""
    known = find(gpu.name) or Card(gpu.name, vram)
    return replace(known, vram=vram, capability=gpu.capability or known.capability)


def _key(name: str) -> str:
    return re.sub(r"\W+", "", _AROUND.sub(" ", name)).lower()
