from __future__ import annotations

import pytest

from fastft.device import Device
from fastft.planning.cards import CARDS, card_of, device_of, find_card

SMI = {
    "Tesla T4": "T4",
    "NVIDIA L4": "L4",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA GeForce RTX 4090": "RTX4090",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100-PCIE-40GB": "A100-40",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA A100 80GB PCIe": "A100-80",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100-PCIe",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "NVIDIA L40S": "L40S",
    "NVIDIA RTX A6000": "A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000Ada",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla V100-SXM2-32GB": "V100-32",
    "Tesla P100-PCIE-16GB": "P100",
}


@pytest.mark.parametrize(("said", "name"), SMI.items())
def test_names_of_nvidia_smi(said: str, name: str) -> None:
    assert find_card(said) == CARDS[name]


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_found_by_its_own_name(name: str) -> None:
    assert find_card(name) == find_card(name.lower()) == CARDS[name]


@pytest.mark.parametrize("said", ["NVIDIA GeForce RTX 4080 SUPER", "NVIDIA H200 NVL", "Quadro T4000", "foo", "0", "-3",
                                  "NVIDIA GeForce RTX 5090 Laptop GPU"])  # fmt: skip
def test_others_are_not_taken_for_one_that_is_known(said: str) -> None:
    assert find_card(said) is None


@pytest.mark.parametrize("said", ["24", "24GiB", "24 GB", "24g"])
def test_a_number_is_gibibytes(said: str) -> None:
    card = find_card(said)
    assert card is not None
    assert (card.memory, card.tflops) == (24 << 30, 0.0)


def test_figures_of_the_datasheets() -> None:
    h200 = CARDS["H200"]
    assert (h200.tflops, h200.bandwidth, h200.compute_capability) == (989.4, 4.8e12, (9, 0))
    assert CARDS["T4"].tflops == 65  # fp16: it has no bf16
    assert all(card.memory > 14e9 and card.tflops > 10 and card.bandwidth > 1e11 for card in CARDS.values())


def test_the_cpu_is_this_machines() -> None:
    card = find_card("cpu")
    assert card is not None
    assert card.is_cpu
    assert card.threads > 0
    assert card.memory > 1e9


def test_a_device_keeps_the_memory_it_really_has() -> None:
    device = Device("cuda", "NVIDIA H200", 150_000_000_000, 16, 10**12)
    assert card_of(device).memory == 150_000_000_000
    assert card_of(device).tflops == CARDS["H200"].tflops
    assert card_of(Device("cuda", "some other", 10**10, 16, 10**12)).tflops == 0


def test_a_card_becomes_a_device_and_a_card_again() -> None:
    host = Device("cpu", "x", 10**10, 8, 10**10)
    for name in ("H100", "24", "T4"):
        card = find_card(name)
        assert card is not None
        assert card_of(device_of(card, host)) == card
