"""Plans of whole recipes: steps, time, disk, remedies, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from fastft.planning.advice import remedies
from fastft.planning.cards import CARDS, Card
from fastft.planning.plan import make_plan, memory_of
from fastft.planning.shape import Shape
from fastft.planning.time import micro_batch_seconds
from fastft.planning.work import Work, pairs_of
from fastft.recipe.load import load_recipe

LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128, 128256, tied=False)
LLAMA_70B = Shape(8192, 28672, 80, 64, 8, 128, 128256, tied=False)
WORK = Work(
    documents=1000, sequences=1000, tokens=500_000, supervised=250_000, longest=2048, pairs=pairs_of([500] * 1000)
)
ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "optim": "adamw_8bit",
    "save_steps": 100, "save_total_limit": 2,
}  # fmt: skip


def recipe(**sections: Any) -> Any:
    known: dict[str, Any] = {
        "model": {"model_name": "fastft/tiny"}, "lora": {"use_gradient_checkpointing": "unsloth"},
        "data": {"path": "recipes/data/quickstart.jsonl", "eval_split": None}, "output_dir": "runs/x",
    }  # fmt: skip
    return load_recipe({**known, **sections})


def test_steps_epochs_and_tokens() -> None:
    plan = make_plan(LLAMA_8B, recipe(), ARGUMENTS, WORK, CARDS["H100"])
    assert (plan.steps, plan.epochs, plan.tokens, plan.sequences) == (250, 2.0, 500_000, 1000)
    short = make_plan(LLAMA_8B, recipe(), {**ARGUMENTS, "max_steps": 25}, WORK, CARDS["H100"])
    assert (short.epochs, short.trained_tokens) == (0.2, 100_000)


def test_a_step_of_an_epoch_that_is_not_full_is_a_step() -> None:
    work = replace(WORK, documents=44, sequences=44, tokens=1283)
    given = {**ARGUMENTS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 24}
    plan = make_plan(LLAMA_8B, recipe(), given, work, CARDS["H100"])
    assert (plan.steps, plan.epochs, plan.trained_tokens) == (24, 4.0, 4 * 1283)
    dropped = make_plan(LLAMA_8B, recipe(), {**given, "dataloader_drop_last": True}, work, CARDS["H100"])
    assert (dropped.epochs, dropped.trained_tokens) == (4.8, round(24 * 8 / 44 * 1283))
    accumulated = make_plan(LLAMA_8B, recipe(), {**given, "gradient_accumulation_steps": 4}, work, CARDS["H100"])
    assert (accumulated.epochs, accumulated.trained_tokens) == (12.0, 12 * 1283)


def test_checkpoints_by_epochs_are_those_of_max_steps() -> None:
    given = {**ARGUMENTS, "save_strategy": "epoch", "save_total_limit": None, "max_steps": 500}
    disk = make_plan(LLAMA_8B, recipe(), given, WORK, CARDS["H100"]).disk
    assert disk["checkpoints"] == 4 * disk["next checkpoint"]  # 125 steps are an epoch


def test_what_the_recipe_takes_is_a_point_of_the_same_plan() -> None:
    plan = make_plan(LLAMA_8B, recipe(), ARGUMENTS, WORK, CARDS["H100"])
    assert plan.parts is not None
    assert plan.memory == plan.parts.total == memory_of(LLAMA_8B, recipe(), ARGUMENTS, WORK, CARDS["H100"]).total


@pytest.mark.parametrize("card", ["T4", "L4", "A10", "RTX4090", "A100-40", "A100-80", "H100", "H200", "B200"])
def test_limits_never_go_beyond_the_device(card: str) -> None:
    known, plan = CARDS[card], make_plan(LLAMA_8B, recipe(), ARGUMENTS, WORK, CARDS[card])

    def memory(batch: int, length: int) -> int:
        return memory_of(LLAMA_8B, recipe(), ARGUMENTS, WORK, known, in_flight=batch * length, longest=length).total

    assert plan.largest_batch
    assert plan.longest_sequence
    assert memory(plan.largest_batch, 2048) <= known.memory < memory(plan.largest_batch + 1, 2048)
    assert memory(1, plan.longest_sequence) <= known.memory < memory(1, plan.longest_sequence + 1)


def test_a_batch_without_padding_is_planned_by_what_can_be_drawn() -> None:
    # 8 of 500 ± 100 tokens: 4,000 and four deviations of 283; one alone may be the longest; never more than 8 × 2,048
    drawn = replace(WORK, spread=100.0)
    assert (drawn.in_flight(8), WORK.in_flight(8)) == (5131, 8 * 2048)
    assert drawn.in_flight(1) == 2048
    assert replace(WORK, spread=10_000.0).in_flight(8) == 8 * 2048


def test_time_is_a_range_about_the_limits_of_the_card() -> None:
    # shared/performance.md: 8B with checkpointing at 2,048 tokens is 46.5 GFLOP a token; an H200 does 21.3k tokens a
    # second at the datasheet's rate, 10.7k at half of it.
    work = Work(8192, 8192, 8192 * 2048, 1, 2048, pairs_of([2048] * 8192))
    arguments = {**ARGUMENTS, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 1}
    plan = make_plan(LLAMA_8B, recipe(), arguments, work, CARDS["H200"])
    assert plan.seconds is not None
    least, most = (work.tokens / seconds for seconds in reversed(plan.seconds.training))
    assert least < 10_700 < most < 21_300


def test_time_of_an_unknown_device_is_not_made_up() -> None:
    card = Card("24 GiB", 24 << 30, 0.0, 0.0, None)
    assert make_plan(LLAMA_8B, recipe(), ARGUMENTS, WORK, card).seconds is None


def test_dequantising_costs_each_micro_batch() -> None:
    # about 12 ms for 8B, three passes at 4.3 TB/s
    least, _ = micro_batch_seconds(LLAMA_8B, recipe(), CARDS["H200"], "unsloth")
    host, _ = micro_batch_seconds(LLAMA_8B, recipe(model={"model_name": "fastft/tiny", "load_in_16bit": True}),
                                  CARDS["H200"], "unsloth")  # fmt: skip
    assert least - host == pytest.approx(0.0122, rel=0.03)


def test_disk_by_what_it_is_for() -> None:
    export = {"formats": ["merged_16bit", "gguf"], "quantization_method": ["q8_0", "q4_k_m"]}
    plan = make_plan(LLAMA_8B, recipe(export=export), ARGUMENTS, WORK, CARDS["H100"])
    assert plan.disk["adapter"] == pytest.approx(4 * 41_943_040, rel=0.2)
    assert plan.disk["checkpoints"] == pytest.approx(2 * 6 * 41_943_040, rel=0.1)  # two are kept
    assert plan.disk["next checkpoint"] == plan.disk["checkpoints"] / 2
    best = make_plan(LLAMA_8B, recipe(), {**ARGUMENTS, "load_best_model_at_end": True}, WORK, CARDS["H100"])
    assert best.disk["checkpoints"] == 3 * plan.disk["next checkpoint"]  # and the best one
    assert plan.disk["export merged_16bit"] == 2 * LLAMA_8B.parameters
    assert plan.disk["export gguf-q8_0"] == pytest.approx(8.54e9, rel=0.05)  # Meta-Llama-3.1-8B Q8_0: 8.54 GB
    assert plan.disk["export gguf-q4_k_m"] == pytest.approx(4.92e9, rel=0.1)  # Q4_K_M: 4.92 GB
    assert plan.disk_total == sum(plan.disk.values())
    assert "checkpoints" not in make_plan(LLAMA_8B, recipe(), {**ARGUMENTS, "save_strategy": "no"}, WORK,
                                          CARDS["H100"]).disk  # fmt: skip


def test_a_smaller_micro_batch_is_what_is_advised_first() -> None:
    arguments = {**ARGUMENTS, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    found = remedies(LLAMA_8B, recipe(), arguments, WORK, CARDS["T4"])
    assert len(found) == 1
    overrides, memory = found[0]
    assert memory <= CARDS["T4"].memory
    batch, accumulation = (int(part.split("=")[1]) for part in overrides.split())
    assert batch * accumulation == 64


def test_16_bits_on_a_small_card_are_told_to_be_4() -> None:
    sixteen = recipe(model={"model_name": "fastft/tiny", "load_in_16bit": True})
    found = remedies(LLAMA_8B, sixteen, ARGUMENTS, WORK, CARDS["T4"])
    assert found
    assert all("model.load_in_4bit=true model.load_in_16bit=false" in overrides for overrides, _ in found)


def test_what_is_advised_is_a_recipe_that_fits() -> None:
    sixteen = {"model": {"model_name": "fastft/tiny", "load_in_16bit": True},
               "lora": {"use_gradient_checkpointing": False}}  # fmt: skip
    for overrides, memory in remedies(LLAMA_8B, recipe(**sixteen), ARGUMENTS, WORK, CARDS["RTX4090"]):
        changed = load_recipe(recipe(**sixteen), overrides.split())
        arguments = {**ARGUMENTS, **changed.training}
        assert memory_of(LLAMA_8B, changed, arguments, WORK, CARDS["RTX4090"]).total == memory


def test_a_model_beyond_the_card_has_no_remedy() -> None:
    assert remedies(LLAMA_70B, recipe(), ARGUMENTS, WORK, CARDS["RTX4090"]) == []


def test_sizes_that_cant_be_read_are_not_zero() -> None:
    plan = make_plan(None, recipe(), ARGUMENTS, WORK, CARDS["H100"])
    assert plan.parts is None
    assert plan.seconds is None
    assert plan.steps == 250


def fastft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fastft", *arguments], capture_output=True, text=True, check=False)


def test_the_command_needs_no_torch_and_compares_devices() -> None:
    code = (
        "import sys\nfrom fastft.cli import main\n"
        "sys.argv = ['fastft', 'plan', 'recipes/quickstart.yaml', '--json', '--device', 'T4', '--device', 'cpu']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["devices"]
    assert (first["device"], second["device"]) == ("T4", "cpu")
    assert first["fits"] is True
    assert first["plan"]["memory"] == first["plan"]["parts"]["total"]
    assert second["plan"]["seconds"]["total"][0] < second["plan"]["seconds"]["total"][1]


def test_an_unknown_device_is_told_with_those_that_are_known() -> None:
    done = fastft("plan", "recipes/quickstart.yaml", "--device", "A100-90")
    assert done.returncode == 2
    assert "there is no device 'A100-90'" in done.stderr
    assert "A100-80" in done.stderr


def test_a_device_without_room_says_what_would_fit() -> None:
    done = fastft("plan", "recipes/quickstart.yaml", "--device", "0.5")
    assert done.returncode == 0
    assert "0.5 GiB" in done.stdout
    assert "Nothing that a recipe can say makes it fit" in done.stdout
