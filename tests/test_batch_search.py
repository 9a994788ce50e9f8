"""`batch: auto`: what is tried and taken, that it leaves no trace, and that it is asked once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.batch_search import remembered, search
from fastft.batch_search.put_back import put_back
from fastft.batch_search.remembered import Found, key_of, recall, remember
from fastft.batch_search.search import candidates, climb
from fastft.batch_search.steps import Clock, supervised_tokens, time_batch
from fastft.device import Device
from fastft.errors import RecipeError, TrainingError
from fastft.recipe.load import load_recipe
from tests.short_runs import recipe_of, write_chats, write_pairs

CPU = Device("cpu", "x86_64", 16 << 30, 2, 16 << 30)
ARGUMENTS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_length": 128,
    "optim": "adamw_8bit",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_found", {})
    return tmp_path / "cache" / "fastft" / "batches"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl")


def _auto(data: Path, **sections: Any) -> dict[str, Any]:
    recipe = recipe_of(data, **sections)
    recipe["training"].pop("per_device_train_batch_size")
    recipe["training"]["batch"] = "auto"
    return recipe


# The key in a recipe


def test_auto_is_the_only_value(chats: Path) -> None:
    assert load_recipe(_auto(chats)).training["batch"] == "auto"
    with pytest.raises(RecipeError, match=r"training\.batch: found 4; expected auto or null"):
        load_recipe(recipe_of(chats, training={"batch": 4}))


def test_what_is_searched_for_can_not_be_given_too(chats: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_of(chats, training={"batch": "auto", "gradient_accumulation_steps": 2}))
    told = str(caught.value)
    assert "training.per_device_train_batch_size: found 4 with batch: auto; expected one of them" in told
    assert "training.gradient_accumulation_steps: found 2 with batch: auto; expected one of them" in told


def test_methods_that_write_answers_refuse_it(chats: Path) -> None:
    recipe = {**_auto(chats), "method": "grpo", "rewards": ["exact_match"]}
    with pytest.raises(RecipeError, match="batch is for method sft, dpo, reward, kto, cpo, orpo, pretrain"):
        load_recipe(recipe)


def test_trls_config_never_sees_it(chats: Path) -> None:
    checked = fastft.check(_auto(chats))
    assert "batch" not in checked.arguments
    reason = next(d.reason for d in checked.defaults if d.key == "per_device_train_batch_size")
    assert reason == "batch: auto begins here and searches for about 25 s once the model is loaded"


def test_a_script_is_told_that_it_is_not_searched_for(tmp_path: Path) -> None:
    from fastft.trl_api.from_yaml import read_fields

    path = tmp_path / "config.yaml"
    path.write_text("batch: auto\nlearning_rate: 1e-4\n")
    with pytest.raises(RecipeError, match="which `fastft train` searches for and a script doesn't"):
        read_fields(path, ["sft"])


# What is tried, and taken


def _clock(rate: float, warm: float = 0.0) -> Clock:
    clock = Clock()
    clock.rates, clock.warm = [rate], warm
    return clock


def _timed(rates: dict[int, float | Exception], seen: list[int]) -> Callable[[int], Clock]:
    import time

    def timed(batch: int) -> Clock:
        seen.append(batch)
        rate = rates[batch]
        if isinstance(rate, Exception):
            raise rate
        return _clock(rate, time.perf_counter())

    return timed


def test_micro_batches_make_a_step_without_rest() -> None:
    assert candidates(12, 100) == (1, 2, 3, 4, 6, 12)
    assert candidates(12, 5) == (1, 2, 3, 4)
    assert candidates(7, 7) == (1, 7)


OUT = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("rates", "tried", "taken"),
    [
        ({1: 50, 2: 100, 4: 150, 8: 180}, [2, 4, 8], 8),
        ({1: 50, 2: 100, 4: 102, 8: 500}, [2, 4, 1], 2),  # a gain of 2 % is noise, and ends the climb
        ({1: 130, 2: 100, 4: 90, 8: 80}, [2, 4, 1], 1),
        ({1: 50, 2: 100, 4: 150, 8: OUT}, [2, 4, 8], 4),
        ({1: 70, 2: OUT, 4: 150, 8: 180}, [2, 4, 8], 8),
        ({1: OUT, 2: OUT, 4: OUT, 8: OUT}, [2, 4, 1], None),
        ({1: 90, 2: TrainingError("TRL refuses"), 4: OUT, 8: OUT}, [2, 4, 1], 1),
    ],
)
def test_the_fastest_is_climbed_to(rates: dict[int, float | Exception], tried: list[int], taken: int | None) -> None:
    seen: list[int] = []
    found = climb(_timed(rates, seen), (1, 2, 4, 8), 2)
    assert seen == tried
    assert (found.batch if found else None) == taken


def test_other_faults_are_not_taken_for_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        climb(_timed({2: RuntimeError("shapes don't match")}, []), (2,), 2)


def test_no_batch_is_begun_after_the_time_is_over() -> None:
    seen: list[int] = []
    found = climb(_timed({1: 1, 2: 100, 4: 150, 8: 180}, seen), (1, 2, 4, 8), 2, seconds=-1)
    assert seen == [2]
    assert found == Found(2, {2: 100})


def test_the_plan_bounds_what_is_tried(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = fastft.check(_auto(chats))
    chosen = int(checked.arguments["per_device_train_batch_size"])
    assert checked.plan.parts is not None
    monkeypatch.setattr(search, "free_bytes", lambda: 1 << 50)
    bounded = replace(checked, plan=replace(checked.plan, largest_batch=chosen + 3))
    assert search.most_that_fit(bounded) == chosen + 3
    monkeypatch.setattr(search, "free_bytes", lambda: 0)  # another program has it
    assert search.most_that_fit(bounded) == chosen
    unknown = replace(checked, plan=replace(checked.plan, largest_batch=None))
    assert search.most_that_fit(unknown) == chosen


def test_supervised_tokens_of_every_methods_batch() -> None:
    import torch

    labels = torch.tensor([[-100, 5, 6], [-100, -100, 7]])
    assert supervised_tokens({"input_ids": labels, "labels": labels}) == 3
    assert supervised_tokens({"chosen_labels": labels, "rejected_labels": labels}) == 6
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]])
    assert supervised_tokens({"input_ids": labels, "completion_mask": mask, "attention_mask": mask + 1}) == 3
    assert supervised_tokens({"input_ids": labels, "attention_mask": torch.ones(2, 3)}) == 6


# What is remembered


def test_an_answer_is_found_again_in_another_process(
    chats: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(load_recipe(_auto(chats)), ARGUMENTS, CPU)
    found = Found(4, {2: 3900.4, 4: 5120.0, 8: None})
    assert recall(key) is None
    remember(key, found)
    monkeypatch.setattr(remembered, "_found", {})
    assert recall(key) == found
    assert found.reason() == (
        "measured: 5,120 tokens/s against 3,900 at 2, 8 out of memory; remembered for this device"
    )
    assert [path.name for path in own_cache.iterdir()] == [f"{key}.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"batch": 4}', '{"batch": 4, "rates": {"2": 1}}', "\x00"])
def test_a_damaged_answer_is_none(text: str, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "key.json").write_text(text)
    assert recall("key") is None


def test_where_nothing_can_be_written_the_process_remembers(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("a file where the folder would be")
    remember("key", Found(2, {2: 1.0}))
    assert recall("key") == Found(2, {2: 1.0})
    monkeypatch.setattr(remembered, "_found", {})
    assert recall("key") is None


def test_the_key_holds_all_that_speed_follows_from(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(_auto(chats))
    key = key_of(recipe, ARGUMENTS, CPU)
    assert key == key_of(recipe, {**ARGUMENTS, "learning_rate": 1.0}, CPU)
    halved = {**ARGUMENTS, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    assert key == key_of(recipe, halved, CPU)
    others = [
        key_of(recipe, {**ARGUMENTS, "max_length": 64}, CPU),
        key_of(recipe, {**ARGUMENTS, "gradient_accumulation_steps": 8}, CPU),
        key_of(recipe, ARGUMENTS, replace(CPU, name="another")),
        key_of(recipe, ARGUMENTS, replace(CPU, memory=8 << 30)),
        key_of(load_recipe(_auto(chats, lora={"r": 4})), ARGUMENTS, CPU),
        key_of(load_recipe(_auto(chats, model={"load_in_16bit": True})), ARGUMENTS, CPU),
    ]
    monkeypatch.setattr(remembered, "version", lambda package: f"{package} of tomorrow")
    others.append(key_of(recipe, ARGUMENTS, CPU))
    assert len({key, *others}) == len(others) + 1


def test_check_shows_what_is_remembered_and_keeps_the_step(chats: Path) -> None:
    first = fastft.check(_auto(chats))
    whole = search.sequences_a_step(first.arguments)
    remember(key_of(first.recipe, first.arguments, first.device), Found(2, {2: 5120.0, 8: 3900.0}))
    again = fastft.check(_auto(chats))
    assert again.arguments["per_device_train_batch_size"] == 2
    assert again.arguments["gradient_accumulation_steps"] == whole // 2
    assert again.plan.steps == first.plan.steps
    reason = next(d.reason for d in again.defaults if d.key == "per_device_train_batch_size")
    assert reason == "measured: 5,120 tokens/s against 3,900 at 8; remembered for this device"


# Real steps


def _state(model: Any) -> dict[str, Any]:
    import torch

    return {
        "weights": {
            n: (p.dtype, p.requires_grad, p.data_ptr() and p.detach().clone()) for n, p in model.named_parameters()
        },
        "attributes": {
            name: {key: dict(value) if isinstance(value, dict) else value for key, value in vars(module).items()}
            for name, module in model.named_modules()
        },
        "config": model.config.to_dict(),
        "random": torch.get_rng_state(),
    }


@pytest.mark.slow
def test_real_steps_leave_no_trace(chats: Path, tmp_path: Path) -> None:
    import random

    import torch

    from fastft.batch_search.steps import sample
    from fastft.model import load_model
    from fastft.trainers.method import Job

    checked = fastft.check(_auto(chats))
    model, tokenizer = load_model(checked.recipe.model, checked.recipe.lora)
    before, drawn = _state(model), random.getstate()
    with put_back(model):
        data = sample(checked.data, "sft", 16, 4)
        job = Job(model, tokenizer, data, checked.arguments, tmp_path)
        clock = time_batch("sft", job, 2, 4)
        changed = [n for n, p in model.named_parameters() if p.requires_grad and not p.equal(before["weights"][n][2])]
    assert len(changed) >= 28  # it really learned: all B matrices, and A from the second step on
    assert 1 <= len(clock.rates) <= 3
    assert clock.rate > 0
    after = _state(model)
    for name, (dtype, trained, weight) in before["weights"].items():
        assert after["weights"][name][:2] == (dtype, trained), name
        assert torch.equal(after["weights"][name][2].view(-1).view(torch.uint8), weight.view(-1).view(torch.uint8)), (
            name
        )
    assert after["attributes"].keys() == before["attributes"].keys()
    for name, attributes in before["attributes"].items():
        now = after["attributes"][name]
        assert now.keys() == attributes.keys(), name
        same = all(
            [*now[key]] == [*value] if isinstance(value, dict) else now[key] is value or now[key] == value
            for key, value in attributes.items()
        )
        assert same, name
    assert after["config"] == before["config"]
    assert torch.equal(after["random"], before["random"])
    assert random.getstate() == drawn
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sample_has_the_longest_rows_first_and_keeps_pairs_together(tmp_path: Path) -> None:
    from fastft.batch_search.steps import sample

    checked = fastft.check(recipe_of(write_pairs(tmp_path / "pairs.jsonl"), method="dpo"))
    data = sample(checked.data, "dpo", 6, 2)
    assert len(data.train) == 12
    whole = [list(example.input_ids) for example in checked.data.train]
    for chosen, rejected in zip(data.train[0::2], data.train[1::2], strict=True):
        place = whole.index(list(chosen.input_ids))
        assert place % 2 == 0
        assert list(rejected.input_ids) == whole[place + 1]
    sizes = [len(a.input_ids) + len(b.input_ids) for a, b in zip(data.train[0::2], data.train[1::2], strict=True)]
    every = sorted((len(a) + len(b) for a, b in zip(whole[0::2], whole[1::2], strict=True)), reverse=True)
    assert sizes[:2] == every[:2]
    assert data.audit.train.supervised == sum(example.supervised for example in data.train)


def _run(recipe: dict[str, Any], folder: Path, **options: Any) -> tuple[fastft.Run, str]:
    output = io.StringIO()
    return fastft.train(
        recipe, output_dir=folder, console=Console(file=output, width=200), **options
    ), output.getvalue()


def _trained_bytes(run: fastft.Run) -> tuple[bytes, list[Any]]:
    losses = [point.get("loss") for point in run.metrics()]
    return (run.adapter / "adapter_model.safetensors").read_bytes(), losses


def _judged(path: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {n}."}],
            "completion": [{"role": "assistant", "content": f"It is {n}." if n % 2 else "No."}],
            "label": bool(n % 2),
        }
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sft", "packed with dropout", "dpo", "kto"])
def test_a_searched_run_is_byte_for_byte_the_explicit_one(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {
        "sft": {},
        "packed with dropout": {"training": {"packing": True}, "lora": {"r": 8, "lora_dropout": 0.1}},
        "dpo": {"method": "dpo", "training": {"max_length": 64}},
        "kto": {"method": "kto", "training": {"max_length": 64}},
    }[case]
    data = {"dpo": write_pairs, "kto": _judged}.get(case, write_chats)(tmp_path / "rows.jsonl")
    searched, printed = _run(_auto(data, **sections), tmp_path / "auto")
    arguments = json.loads(searched.start_path.read_text())["arguments"]
    assert "batch    " in printed
    assert "tokens/s" in printed
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    explicit = recipe_of(data, **sections)
    explicit["training"] |= {key: arguments[key] for key in keys}
    plain, _ = _run(explicit, tmp_path / "explicit")
    assert _trained_bytes(searched) == _trained_bytes(plain)

    monkeypatch.setattr(remembered, "_found", {})  # as another process finds it
    monkeypatch.setattr(search, "_search", lambda *_: pytest.fail("it was remembered"))
    again, printed = _run(_auto(data, **sections), tmp_path / "again")
    assert "remembered for this device" in printed
    assert _trained_bytes(again) == _trained_bytes(searched)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_batch_and_searches_no_more(
    chats: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = tmp_path / "stop.py"
    stop.write_text(
        "from transformers import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        f"        if state.global_step == 3 and not __import__('pathlib').Path({str(tmp_path / 'go')!r}).exists():\n"
        "            raise KeyboardInterrupt\n"
    )
    recipe = {**_auto(chats, training={"max_steps": 4, "save_steps": 2}), "callbacks": [f"{stop}:Stop"]}
    monkeypatch.setattr(search, "_search", lambda *_: Found(2, {2: 20.0, 8: 10.0}))
    with pytest.raises(TrainingError, match="interrupted"):
        _run(recipe, tmp_path / "run")
    (tmp_path / "go").touch()
    for kept in own_cache.iterdir():
        kept.unlink()
    monkeypatch.setattr(remembered, "_found", {})
    monkeypatch.setattr(search, "_search", lambda *_: pytest.fail("a resumed run searches no more"))
    run, _ = _run(recipe, tmp_path / "run", resume=True)
    assert run.manifest()["arguments"]["per_device_train_batch_size"] == 2
    assert run.manifest()["training"]["steps"] == 4


def test_a_run_without_it_is_left_alone(chats: Path, tmp_path: Path) -> None:
    checked = fastft.check(recipe_of(chats))
    run = SimpleNamespace(start_path=tmp_path / "start.json")
    assert search.search_batch(checked, run, None, None, Console(file=io.StringIO())) is checked  # type: ignore[arg-type]
