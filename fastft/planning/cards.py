"""The accelerators a plan can be made for, by their vendors' datasheets.

Rates are dense (without structured sparsity, which datasheets often print: twice as much). Sources: NVIDIA's datasheets
T4 (2019), V100 (2020), A10, A30, A40, A100 (2021), L4, L40S (2023), H100, H200, B200 (2024), RTX A6000; the whitepapers
"Ampere GA102", "Ada GPU Architecture" and "RTX Blackwell GPU Architecture" for GeForce and RTX workstation cards, whose
tensor rate is that of 16-bit input with 32-bit accumulation, as training has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from fastft.device import Device, the_cpu
from fastft.planning.constants import CPU_BANDWIDTH, GIB


@dataclass(frozen=True, slots=True)
class Card:
    """What a plan needs to know of a device.

    `memory` is in bytes, `tflops` the dense tensor rate in bf16 in TFLOP/s (fp16 before compute capability 8.0, which
    has no bf16), `bandwidth` in bytes a second. `tflops` is 0 where nobody says what the device is but its memory.
    """

    name: str
    memory: int
    tflops: float
    bandwidth: float
    compute_capability: tuple[int, int] | None
    kind: str = "cuda"
    threads: int = 0  # of a CPU

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"


def _card(name: str, mebibytes: int, tflops: float, gigabytes_a_second: float, capability: tuple[int, int]) -> Card:
    return Card(name, mebibytes << 20, tflops, gigabytes_a_second * 1e9, capability)


# Memory as nvidia-smi tells the total, which is what the driver leaves of the datasheet's.
CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("T4", 15360, 65, 320, (7, 5)),
        _card("P100", 16384, 18.7, 732, (6, 0)),  # no tensor cores: its fp16 rate
        _card("V100", 16384, 125, 900, (7, 0)),
        _card("V100-32", 32768, 125, 900, (7, 0)),
        _card("A10", 23028, 125, 600, (8, 6)),
        _card("A10G", 23028, 70, 600, (8, 6)),
        _card("A30", 24576, 165, 933, (8, 0)),
        _card("A40", 46068, 149.7, 696, (8, 6)),
        _card("A6000", 49140, 154.8, 768, (8, 6)),
        _card("A100-40", 40960, 312, 1555, (8, 0)),
        _card("A100-80", 81920, 312, 2039, (8, 0)),
        _card("L4", 23034, 121, 300, (8, 9)),
        _card("L40S", 46068, 362, 864, (8, 9)),
        _card("RTX6000Ada", 49140, 364.2, 960, (8, 9)),
        _card("RTX3090", 24576, 71, 936, (8, 6)),
        _card("RTX4080", 16376, 97.5, 717, (8, 9)),
        _card("RTX4090", 24564, 165.2, 1008, (8, 9)),
        _card("RTX5080", 16303, 112.6, 960, (12, 0)),
        _card("RTX5090", 32607, 209.5, 1792, (12, 0)),
        _card("H100", 81559, 989.4, 3350, (9, 0)),
        _card("H100-PCIe", 81559, 756, 2000, (9, 0)),
        _card("H200", 143771, 989.4, 4800, (9, 0)),
        _card("B200", 183359, 2250, 7700, (10, 0)),
    )
}

# What nvidia-smi calls them, where that doesn't hold the short name: most specific first.
_SPELLINGS = (
    (r"a100.*40", "A100-40"), (r"a100.*80|^a100$", "A100-80"), (r"a10g", "A10G"),
    (r"v100.*32|v100s", "V100-32"),
    (r"h100 pcie", "H100-PCIe"), (r"p100", "P100"),
    (r"rtx ?6000 ?ada|6000 ada", "RTX6000Ada"), (r"a6000", "A6000"),
)  # fmt: skip


def find_card(name: str) -> Card | None:
    """The card of that name: short ("A100-40"), as nvidia-smi says it ("NVIDIA H100 80GB HBM3", "Tesla T4"), or GiB.

    A number, with or without GiB or GB behind it, is a card of which only the memory is known; "cpu" is this machine's.
    """
    wanted = " ".join(name.lower().replace("_", " ").split())
    if wanted == "cpu":
        return card_of(the_cpu())
    number = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:gib|gb|g)?", wanted)
    if number and float(number[1]):
        return Card(f"{float(number[1]):g} GiB", int(float(number[1]) * GIB), 0.0, 0.0, None)
    for card in CARDS.values():
        if _bare(wanted) == _bare(card.name):
            return card
    for pattern, known in _SPELLINGS:
        if re.search(pattern, wanted):
            return CARDS[known]
    words = re.split(r"[^a-z0-9]+", wanted.replace("rtx ", "rtx").replace("nvidia ", "").replace("geforce ", ""))
    return next((card for card in CARDS.values() if card.name.lower() in words and not _variant(words)), None)


def card_of(device: Device) -> Card:
    """The card that a device is, with the memory it really has; of an unknown one only that."""
    if device.is_cpu:
        return Card("cpu", device.memory, 0.0, CPU_BANDWIDTH, None, "cpu", device.threads)
    known = find_card(device.name)
    if known is None or not known.tflops:
        return Card(device.name, device.memory, 0.0, 0.0, None, device.kind)
    return replace(known, memory=device.memory, kind=device.kind)


def device_of(card: Card, host: Device) -> Device:
    """A machine with that card, and otherwise as `host`."""
    if card.is_cpu:
        return Device("cpu", host.name if host.is_cpu else "cpu", host.host_memory, host.threads, host.host_memory)
    return Device(card.kind, card.name, card.memory, host.threads, host.host_memory)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _variant(words: list[str]) -> bool:
    """Whether a name is that of a sister with other figures ("RTX 4080 SUPER", "RTX 4090 Laptop GPU", "H100 PCIe")."""
    return bool({"super", "ti", "laptop", "d", "mobile", "nvl", "pcie"} & set(words))
