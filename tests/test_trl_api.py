"""The trainers and configs of TRL users: TRL's own scripts, our labels, TRL's losses, the names, the callbacks."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastft as package
from fastft.errors import DatasetError, ModelError, RecipeError
from fastft.recipe.trl_config import config_fields
from fastft.trl_api import OURS, forward, public_names
from fastft.trl_api.from_yaml import read_fields

fastft: Any = package  # what the trainers hold is of many types
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("sft", "dpo", "kto", "reward", "grpo", "rloo")
QUICK = {"per_device_train_batch_size": 2, "max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
ONLINE = {"num_generations": 2, "max_completion_length": 8}
FIELDS = ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "weight_decay", "seed", "max_grad_norm",
          "max_length", "beta", "num_generations", "temperature", "loss_type", "logging_steps")  # fmt: skip


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


MESSAGES = [
    {"messages": [turn("user", f"What is {n}+1?"), turn("assistant", f"It is {n + 1}.")]}
    if n % 2
    else {"messages": [turn("system", "Be brief."), turn("user", f"{n}?"), turn("assistant", "Yes."),
                       turn("user", "Why?"), turn("assistant", f"Because of {n}.")]}
    for n in range(8)
]  # fmt: skip
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": f"Hello {n}!"}]}
    for n in range(8)
]
ALPACA = [{"instruction": "Add one.", "input": str(n), "output": str(n + 1)} for n in range(8)]
PAIRS = [
    {"prompt": [turn("user", f"What is {n}+1?")], "chosen": [turn("assistant", f"It is {n + 1}.")],
     "rejected": [turn("assistant", f"It is {n - 1}, I think.")]}
    for n in range(8)
]  # fmt: skip
ALPACA_PAIRS = [{"instruction": f"Add one to {n}.", "chosen": str(n + 1), "rejected": f"no {n}"} for n in range(8)]
JUDGED = [
    {"prompt": [turn("user", f"What is {n}+1?")], "completion": [turn("assistant", f"{n + n % 2}")],
     "label": bool(n % 2)}
    for n in range(8)
]  # fmt: skip
PROMPTS = [{"prompt": [turn("user", f"What is {n}+1?")], "answer": str(n + 1)} for n in range(8)]
TEXT_PAIRS = [{"prompt": f"The number {n} ", "chosen": "is good.", "rejected": "is bad and ugly."} for n in range(8)]
SCRIPT_ROWS = {"sft": MESSAGES, "dpo": PAIRS, "kto": JUDGED, "reward": PAIRS, "grpo": PROMPTS, "rloo": PROMPTS}


def dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


# names


def test_a_name_that_trl_lacks_is_no_attribute_and_costs_no_import() -> None:
    program = (
        "import sys, fastft, fastft.rewards\n"
        "for module in (fastft, fastft.rewards):\n"
        "    try:\n"
        "        module.Nonsense\n"
        "    except AttributeError as error:\n"
        "        assert str(error) == f\"module '{module.__name__}' has no attribute 'Nonsense'\", error\n"
        "    else:\n"
        "        raise SystemExit('found')\n"
        "assert 'SFTTrainer' in dir(fastft) and 'ModelConfig' in dir(fastft)\n"
        "heavy = {'torch', 'trl', 'transformers', 'unsloth', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_every_public_name_of_trl_is_here() -> None:
    trl = forward("SFTTrainer").__mro__ and sys.modules["trl"]
    structure = {name for names in trl._import_structure.values() for name in names}  # TRL's own table, imported
    assert public_names() == structure
    for name in sorted(structure):
        found = getattr(fastft, name)
        if name in OURS:
            assert issubclass(found, getattr(trl, name))
            assert found is not getattr(trl, name)
        else:
            assert found is getattr(trl, name)
    from trl import rewards as theirs

    from fastft import rewards as ours

    for name in public_names("trl.rewards"):
        assert getattr(ours, name) is getattr(theirs, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OURS if name.endswith("Config")])
def test_defaults_are_those_that_trl_declares(name: str, out: str) -> None:
    method = name.removesuffix("Config").lower()
    config = getattr(fastft, name)(out)
    assert config.output_dir == out
    declared = config_fields(method)
    for key in FIELDS:
        if key in declared and declared[key].default is not None:
            assert getattr(config, key) == declared[key].default, key


@pytest.mark.slow
def test_a_config_refuses_what_is_no_field(out: str) -> None:
    with pytest.raises(TypeError, match=r"SFTConfig has no field max_step\. Did you mean max_steps\?"):
        fastft.SFTConfig(out, max_step=3)
    with pytest.raises(TypeError, match="several values for output_dir"):
        fastft.SFTConfig(out, output_dir=out)


# from_yaml


def test_a_flat_file_gives_the_fields_it_sets(tmp_path: Path) -> None:
    path = tmp_path / "flat.yaml"
    path.write_text("learning_rate: 2e-5\nmax_steps: 3\noutput_dir: here\npush_to_hub: no\npacking: true\n")
    assert read_fields(path, ("sft",)) == {
        "learning_rate": 2e-5, "max_steps": 3, "output_dir": "here", "push_to_hub": False, "packing": True
    }  # fmt: skip


def test_every_fault_of_a_flat_file_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "flat.yaml"
    path.write_text("learning_rate: fast\nmax_step: 3\noutput_dir: [1]\n")
    with pytest.raises(RecipeError) as caught:
        read_fields(path, ("sft",))
    assert [str(fault) for fault in caught.value.faults] == [
        'flat.yaml:1 learning_rate: found "fast"; expected a number above 0 and at most 1',
        "flat.yaml:2 max_step: unknown key. Did you mean max_steps?",
        "flat.yaml:3 output_dir: found [1]; expected text or null",
    ]


def test_a_recipe_is_checked_whole_and_must_be_of_the_method(tmp_path: Path) -> None:
    fields = read_fields(ROOT / "recipes" / "quickstart.yaml", ("sft", "pretrain"))
    recipe = fastft.load_recipe(ROOT / "recipes" / "quickstart.yaml")
    assert fields == {"output_dir": recipe.output_dir, "max_length": recipe.model.max_seq_length, **recipe.training}
    with pytest.raises(RecipeError, match=r"method: found sft; expected dpo\. Take SFTConfig\.from_yaml"):
        read_fields(ROOT / "recipes" / "quickstart.yaml", ("dpo",))
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {model_name: fastft/tiny}\nlora: {}\ntraining: {learning_rate: -1}\n")
    with pytest.raises(RecipeError) as caught:
        read_fields(broken, ("sft",))
    assert {fault.where for fault in caught.value.faults} == {
        "broken.yaml:3 training.learning_rate",
        "broken.yaml data.path",
    }


@pytest.mark.slow
def test_from_yaml_gives_the_config_and_takes_further_fields(tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "quickstart.yaml"
    config = fastft.SFTConfig.from_yaml(recipe, seed=7, output_dir=str(tmp_path))
    assert isinstance(config, fastft.SFTConfig)
    fields = read_fields(recipe, ("sft",)) | {"seed": 7, "output_dir": str(tmp_path)}
    assert {key: getattr(config, key) for key in fields} == fields
    assert config.weight_decay == 0.0  # TRL's default, not the one a recipe has


# data


def recipe_path(rows: list[dict[str, Any]], folder: Path, method: str, **data: Any) -> Any:
    """What `fastft train` would prepare of the same rows in a file."""
    from fastft.data.prepare import prepare_data
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.model_files import resolve_model
    from fastft.recipe.schema import DataSection
    from fastft.trainers import find_method

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = ChatTokenizer.load(resolve_model("fastft/tiny", weights=True), data.get("chat_template"))
    section = DataSection.model_validate({"path": str(path), **data})
    return prepare_data(section, tokenizer, max_length=1024, seed=42, kind=find_method(method).kind)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [SHAREGPT, ALPACA, MESSAGES], ids=["sharegpt", "alpaca", "messages"])
def test_sft_feeds_the_ids_and_labels_of_the_recipe_path(rows: list[dict[str, Any]], tmp_path: Path, out: str) -> None:
    prepared = recipe_path(rows, tmp_path, "sft")
    trainer = fastft.SFTTrainer("fastft/tiny", fastft.SFTConfig(out, **QUICK), train_dataset=dataset(rows),
                                eval_dataset={"one": dataset(rows[:3])})  # fmt: skip
    assert len(prepared.train) == 8
    for fed, expected in ((trainer.train_dataset, prepared.train), (trainer.eval_dataset["one"], prepared.train[:3])):
        assert fed["input_ids"][:] == [example.input_ids for example in expected]
        assert fed["labels"][:] == [example.labels for example in expected]
    learned = sum(label != -100 for labels in trainer.train_dataset["labels"] for label in labels)
    assert learned == prepared.audit.train.supervised
    assert 0 < learned < prepared.audit.train.tokens


@pytest.mark.slow
def test_explicit_assistant_only_loss_false_learns_every_token(tmp_path: Path, out: str) -> None:
    everything = recipe_path(MESSAGES, tmp_path, "sft", train_on="all")
    given = fastft.SFTConfig(out, assistant_only_loss=False, **QUICK)
    trainer = fastft.SFTTrainer(model="fastft/tiny", args=given, train_dataset=dataset(MESSAGES))
    assert trainer.train_dataset["labels"][:] == [example.labels for example in everything.train]
    asked = fastft.SFTConfig(out, assistant_only_loss=True, **QUICK)
    trainer = fastft.SFTTrainer(model="fastft/tiny", args=asked, train_dataset=dataset(MESSAGES))
    expected = recipe_path(MESSAGES, tmp_path, "sft")
    assert trainer.train_dataset["labels"][:] == [example.labels for example in expected.train]
    assert trainer.args.assistant_only_loss is True


@pytest.mark.slow
def test_of_a_prompt_and_its_completion_the_completion_is_learned(out: str) -> None:
    """Not the assistant's turn within the prompt: TRL doesn't either."""
    prompt = [turn("user", "2?"), turn("assistant", "Three."), turn("user", "Why?")]
    rows = dataset([{"prompt": prompt, "completion": [turn("assistant", "So.")]}] * 4)

    def learned(**options: Any) -> str:
        args = fastft.SFTConfig(out, **options, **QUICK)
        trainer = fastft.SFTTrainer("fastft/tiny", args, train_dataset=rows)
        return trainer.processing_class.decode([i for i in trainer.train_dataset["labels"][0] if i != -100])

    completion = learned()
    assert completion.startswith("So.")
    assert "Three" not in completion
    assert learned(completion_only_loss=True) == completion
    everything = learned(completion_only_loss=False)
    assert "Three" in everything
    assert "Why?" in everything


@pytest.mark.slow
def test_beside_messages_no_other_column_is_a_format(tmp_path: Path, out: str) -> None:
    rows = [{**row, "text": "as text", "prompt_id": str(n)} for n, row in enumerate(MESSAGES)]
    trainer = fastft.SFTTrainer("fastft/tiny", fastft.SFTConfig(out, **QUICK), train_dataset=dataset(rows))
    expected = recipe_path(MESSAGES, tmp_path, "sft")
    assert trainer.train_dataset["labels"][:] == [example.labels for example in expected.train]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DPO", "ORPO", "CPO", "Reward", "KTO"])
def test_preferences_are_fed_as_the_recipe_path_feeds_them(name: str, tmp_path: Path, out: str) -> None:
    from fastft.trainers import kto, pairs, reward

    rows, method = (JUDGED, "kto") if name == "KTO" else (ALPACA_PAIRS, name.lower())
    prepared = recipe_path(rows, tmp_path, method)
    expected = {
        "DPO": lambda: pairs.pairs_dataset(prepared.train),
        "Reward": lambda: reward.scored_dataset(prepared.train),
        "KTO": lambda: kto.with_kl_answers(kto.judged_dataset(prepared.train, prepared.train_conversations), 2),
    }.get(name, lambda: pairs.labelled_pairs_dataset(prepared.train))()
    args = getattr(fastft, f"{name}Config")(out, **QUICK)
    trainer = getattr(fastft, f"{name}Trainer")(model="fastft/tiny", args=args, train_dataset=dataset(rows))
    assert trainer.train_dataset.to_dict() == expected.to_dict()
    assert len(losses(trainer)) == 2


@pytest.mark.slow
def test_kto_takes_pairs_apart(tmp_path: Path, out: str) -> None:
    from fastft.trainers.kto import judged_dataset

    args = fastft.KTOConfig(out, **QUICK)
    layouts = {
        "turns": PAIRS,
        "alpaca": [{"instruction": row["prompt"][0]["content"], "chosen": row["chosen"][0]["content"],
                    "rejected": row["rejected"][0]["content"]} for row in PAIRS],
        "whole": [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in PAIRS],
    }  # fmt: skip
    answers = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
               for side in ("chosen", "rejected") for row in PAIRS]  # fmt: skip
    prepared = recipe_path(answers, tmp_path, "kto")
    for name, rows in layouts.items():
        trainer = fastft.KTOTrainer(model="fastft/tiny", args=args, train_dataset=dataset(rows))
        expected = judged_dataset(prepared.train, prepared.train_conversations)
        assert trainer.train_dataset.remove_columns("KL_completion_ids").to_dict() == expected.to_dict(), name


@pytest.mark.slow
def test_online_methods_get_prompts_and_keep_the_other_columns(out: str) -> None:
    rows = [{**row, "expected": str(n)} for n, row in enumerate(SHAREGPT)]
    seen: list[str] = []

    def rewarded(completions: Any, expected: Any, **columns: Any) -> list[float]:
        assert set(columns) >= {"conversations", "prompts"}
        seen.extend(expected)
        return [float(len(c[0]["content"])) for c in completions]

    args = fastft.GRPOConfig(out, **QUICK, **ONLINE)
    trainer = fastft.GRPOTrainer("fastft/tiny", rewarded, args, dataset(rows))
    assert trainer.train_dataset["prompt"][:] == [[turn("user", f"Hi {n}")] for n in range(8)]
    trainer.train()
    assert len(seen) == 4  # two steps of two answers
    other = fastft.RLOOTrainer(
        model="fastft/tiny",
        reward_funcs=rewarded,
        args=fastft.RLOOConfig(out, **QUICK, **ONLINE),
        train_dataset=dataset([{**row, "expected": ""} for row in ALPACA]),
    )
    assert other.train_dataset["prompt"][1] == [turn("user", "Add one.\n1")]


@pytest.mark.slow
def test_broken_rows_are_named_and_left_out_ones_counted(out: str, caplog: pytest.LogCaptureFixture) -> None:
    args = fastft.SFTConfig(out, max_length=64, **QUICK)
    broken = [*MESSAGES[:2], {"messages": [turn("nobody", "?"), turn("assistant", "!")]}, *MESSAGES[:2]]
    with pytest.raises(DatasetError) as caught:
        fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=dataset(broken))
    assert [fault.where for fault in caught.value.faults] == ["train_dataset row 3"]
    empty = [*MESSAGES[:2], {"messages": [turn("user", "hello"), turn("assistant", "")]}, *MESSAGES[2:4]]
    with caplog.at_level(logging.WARNING, "fastft"):
        trainer = fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=dataset(empty))
    assert len(trainer.train_dataset) == 4
    assert any("1 (train_dataset row 3" in message for message in caplog.messages), caplog.messages
    with pytest.raises(DatasetError, match="train_dataset row 1"):
        fastft.GRPOTrainer("fastft/tiny", len, fastft.GRPOConfig(out, **QUICK, **ONLINE), dataset([{"question": "?"}]))


@pytest.mark.slow
def test_rows_that_are_trls_go_to_trl_as_they_are(out: str) -> None:
    from datasets import Dataset

    args = fastft.SFTConfig(out, **QUICK)
    tokenised = dataset([{"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, 4]}] * 4)
    trainer = fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=tokenised)
    assert trainer.train_dataset.to_dict() == tokenised.to_dict()
    texts = dataset([{"text": f"Number {n}.", "instruction": "unused"} for n in range(4)])
    trainer = fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=texts)
    tokenizer: Any = trainer.processing_class
    assert tokenizer.decode(trainer.train_dataset["input_ids"][1]) == "Number 1." + tokenizer.eos_token
    stream = Dataset.from_list(MESSAGES).to_iterable_dataset()
    assert len(losses(fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=stream))) == 2


@pytest.mark.slow
def test_packing_packs_on_the_cpu_too(tmp_path: Path, out: str) -> None:
    prepared = recipe_path(MESSAGES, tmp_path, "sft")
    args = fastft.SFTConfig(out, packing=True, max_length=256, **QUICK)
    trainer = fastft.SFTTrainer(model="fastft/tiny", args=args, train_dataset=dataset(MESSAGES))
    assert len(trainer.train_dataset) < 8
    assert sum(map(len, trainer.train_dataset["input_ids"])) == prepared.audit.train.tokens
    assert len(losses(trainer)) == 2


@pytest.mark.slow
def test_a_tokenizer_without_template_gets_the_plain_one(
    tiny: Path, out: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    from fastft.data.templates import named_template

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    with caplog.at_level(logging.WARNING, "fastft"):
        args = fastft.SFTConfig(out, **QUICK)
        trainer = fastft.SFTTrainer("fastft/tiny", args, processing_class=tokenizer, train_dataset=dataset(SHAREGPT))
    assert tokenizer.chat_template == named_template("plain")
    assert any("no chat template" in message for message in caplog.messages)
    assert "Hello 0!" in tokenizer.decode([i for i in trainer.train_dataset["labels"][0] if i != -100])


@pytest.mark.slow
def test_the_template_of_the_config_is_the_one_that_is_learned(tmp_path: Path, out: str) -> None:
    from fastft.data.templates import named_template

    template = tmp_path / "mine.jinja"
    template.write_text(named_template("plain"))
    expected = recipe_path(SHAREGPT, tmp_path, "sft", chat_template=str(template))
    args = fastft.SFTConfig(out, chat_template_path=str(template), **QUICK)
    trainer = fastft.SFTTrainer("fastft/tiny", args, train_dataset=dataset(SHAREGPT))
    assert trainer.train_dataset["labels"][:] == [example.labels for example in expected.train]
    assert trainer.train_dataset["labels"][:] != [e.labels for e in recipe_path(SHAREGPT, tmp_path, "sft").train]


# TRL's results


@pytest.mark.slow
def test_losses_on_tokenised_rows_are_trls(tiny: Path, tmp_path: Path, out: str) -> None:
    import trl

    prepared = recipe_path(MESSAGES, tmp_path, "sft")
    rows = dataset([{"input_ids": example.input_ids, "labels": example.labels} for example in prepared.train])
    same = {**QUICK, "max_steps": 4, "learning_rate": 1e-3, "bf16": False}
    ours = fastft.SFTTrainer(model=str(tiny), args=fastft.SFTConfig(out, **same), train_dataset=rows)
    theirs = trl.SFTTrainer(model=str(tiny), args=trl.SFTConfig(out, **same), train_dataset=rows)
    found, expected = losses(ours), losses(theirs)
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[-1]) > 0.01  # it learned, so equal losses say something


@pytest.mark.slow
@pytest.mark.parametrize("tokenised", [False, True])
def test_losses_of_dpo_are_trls(tokenised: bool, tiny: Path, tmp_path: Path, out: str) -> None:
    """Of texts, which TRL tokenises in both; and of rows of ids, which TRL's own trainer has to be made to take."""
    import trl

    from fastft.trainers.dpo import fed_with_ids
    from fastft.trainers.pairs import pairs_dataset

    same = {**QUICK, "max_steps": 4, "learning_rate": 1e-3, "bf16": False}
    rows = pairs_dataset(recipe_path(PAIRS, tmp_path, "dpo").train) if tokenised else dataset(TEXT_PAIRS)
    ours = fastft.DPOTrainer(model=str(tiny), args=fastft.DPOConfig(out, **same), train_dataset=rows)
    trls: Any = fed_with_ids(trl.DPOTrainer) if tokenised else trl.DPOTrainer
    theirs = trls(model=str(tiny), args=trl.DPOConfig(out, **same), train_dataset=rows)
    found, expected = losses(ours), losses(theirs)
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[-1]) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["lm_head"]},
                                     {"target_modules": "all-linear"}, {"rank_pattern": {"q_proj": 4}}])  # fmt: skip
def test_an_adapter_trains_the_weights_that_trls_would(options: dict[str, Any], tiny: Path, out: str) -> None:
    import trl
    from peft import LoraConfig

    def shapes(trainer: Any) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in trainer.model.named_parameters() if p.requires_grad}

    lora = {"r": 8, "lora_alpha": 4, "task_type": "CAUSAL_LM", **options}
    rows = dataset([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4)
    ours = fastft.SFTTrainer(
        str(tiny), fastft.SFTConfig(out, **QUICK), train_dataset=rows, peft_config=LoraConfig(**lora)
    )
    theirs = trl.SFTTrainer(str(tiny), trl.SFTConfig(out, **QUICK), train_dataset=rows, peft_config=LoraConfig(**lora))
    assert shapes(ours) == shapes(theirs)
    config = ours.model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 4)


# models


@pytest.mark.slow
def test_a_named_model_is_loaded_as_the_arguments_say(tiny: Path, out: str) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    def loaded(model: str = "fastft/tiny", quantization: Any = None, **init: Any) -> Any:
        args = fastft.SFTConfig(out, model_init_kwargs=init or None, **QUICK)
        rows = dataset([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4)
        return fastft.SFTTrainer(model, args, train_dataset=rows, quantization_config=quantization).model

    assert loaded().dtype == torch.float32
    assert loaded(str(tiny), dtype="bfloat16", attn_implementation="eager").dtype == torch.bfloat16
    assert loaded(dtype="float32", attn_implementation="eager").config._attn_implementation == "eager"
    with pytest.raises(ModelError, match="unknown_option"):
        loaded(unknown_option=1)
    with pytest.raises(ModelError, match="dtype can't be 'float7'"):
        loaded(dtype="float7")
    with pytest.raises(ModelError, match="4 bits of type fp4"):
        loaded(quantization=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"))
    with pytest.raises(ModelError, match="there is no folder"):
        loaded("no/such/model")


@pytest.mark.slow
def test_the_way_of_loading_is_kept_and_not_called_ignored(tiny: Path, out: str) -> None:
    """TRL's loggers don't reach caplog, so what they are given is looked at."""
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    logger = logging.getLogger("trl.trainer.dpo_trainer")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    args = fastft.DPOConfig(out, model_init_kwargs={"dtype": "float32"}, **QUICK)
    rows = dataset(PAIRS)
    try:
        trainer = fastft.DPOTrainer("fastft/tiny", args=args, train_dataset=rows)
        assert not [line for line in said if "model_init_kwargs" in line]
        fastft.DPOTrainer(AutoModelForCausalLM.from_pretrained(tiny), args=args, train_dataset=rows)
        assert [line for line in said if "will be ignored" in line]  # true there
    finally:
        logger.removeHandler(handler)
    assert trainer.args.model_init_kwargs == {"dtype": "float32"}


@pytest.mark.slow
def test_what_older_scripts_and_notebooks_give(tiny: Path, out: str) -> None:
    """transformers' own parser, `tokenizer`, and arguments that moved into the config since."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

    parser = HfArgumentParser((fastft.CPOConfig, fastft.ModelConfig))
    given = [
        "--output_dir",
        out,
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--no_remove_unused_columns",
    ]
    args, model_args = parser.parse_args_into_dataclasses([*given, "--use_peft", "--lora_r", "4"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    options = {"tokenizer": tokenizer, "peft_config": fastft.get_peft_config(model_args)}
    trainer = fastft.CPOTrainer(model, args=args, train_dataset=dataset(TEXT_PAIRS), **options)
    trainer.train()
    assert trainer.state.global_step == 2
    rows = dataset([{"body": f"The number {n} is good."} for n in range(4)])
    trainer = fastft.SFTTrainer(
        model=str(tiny),
        tokenizer=tokenizer,
        train_dataset=rows,
        dataset_text_field="body",
        max_seq_length=4,
        args=fastft.SFTConfig(out, **QUICK),
    )
    assert {len(ids) for ids in trainer.train_dataset["input_ids"]} == {4}


@pytest.mark.slow
def test_four_bits_with_a_lora_learn_in_float32(out: str) -> None:
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    trainer = fastft.SFTTrainer(
        "fastft/tiny",
        fastft.SFTConfig(out, **QUICK),
        train_dataset=dataset(SHAREGPT),
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"),
    )
    model: Any = trainer.model
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert len(losses(trainer)) == 2


@pytest.mark.slow
def test_models_and_tokenizers_that_are_loaded_already(tiny: Path, out: str) -> None:
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    trainer = fastft.DPOTrainer(model, None, fastft.DPOConfig(out, **QUICK), train_dataset=dataset(PAIRS),
                                processing_class=tokenizer)  # fmt: skip
    assert len(losses(trainer)) == 2
    assert trainer.ref_model is not None  # made by TRL
    model = AutoModelForCausalLM.from_pretrained(tiny)
    trainer = fastft.SFTTrainer(model, TrainingArguments(out, max_steps=2), train_dataset=dataset(SHAREGPT))
    assert isinstance(trainer.args, fastft.SFTConfig)
    assert trainer.train_dataset.column_names == ["input_ids", "labels"]
    model = AutoModelForCausalLM.from_pretrained(tiny)
    trainer = fastft.CPOTrainer(
        model,
        args=fastft.CPOConfig(out, **QUICK),
        train_dataset=dataset(PAIRS),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"),
    )
    assert len(losses(trainer)) == 2
    trainer = fastft.RewardTrainer(
        model="fastft/tiny",
        args=fastft.RewardConfig(out, **QUICK),
        train_dataset=dataset(PAIRS),
        peft_config=LoraConfig(task_type="SEQ_CLS"),
    )
    assert any("score" in name for name, p in trainer.model.named_parameters() if p.requires_grad)
    assert len(losses(trainer)) == 2
    measured = trainer.evaluate(dataset(ALPACA_PAIRS))
    assert measured["eval_loss"] > 0


@pytest.mark.slow
def test_a_run_is_a_model(tmp_path: Path, out: str) -> None:
    """What was trained there, merged: the next trainer starts from it."""
    import torch
    from safetensors.torch import load_file

    from tests import short_runs

    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    recipe = short_runs.recipe_of(pairs, method="dpo", model={"load_in_16bit": True})
    run = short_runs.train({**recipe, "data": {"path": str(pairs)}}, tmp_path / "run")
    trainer = fastft.SFTTrainer(str(run.directory), fastft.SFTConfig(out, **QUICK), train_dataset=dataset(SHAREGPT))
    weights = load_file(run.directory / "exports" / "merged_16bit" / "model.safetensors")
    held = dict(trainer.model.named_parameters())
    assert all(torch.equal(held[name], weight.float()) for name, weight in weights.items() if name in held)
    assert len(losses(trainer)) == 2


@pytest.mark.slow
def test_a_reward_run_judges_answers(tmp_path: Path, out: str) -> None:
    from fastft.reward_model import RewardModel
    from tests import short_runs

    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    recipe = short_runs.recipe_of(pairs, method="reward")
    run = short_runs.train({**recipe, "data": {"path": str(pairs)}}, tmp_path / "run")
    trainer = fastft.GRPOTrainer(
        model="fastft/tiny",
        reward_funcs=[str(run.directory), len],
        args=fastft.GRPOConfig(out, **QUICK, **ONLINE),
        train_dataset=dataset(SHAREGPT),
    )
    prompt, answer = [turn("user", "2+1?")], [turn("assistant", "It is 3.")]
    found = trainer.reward_funcs[0](prompts=[prompt], completions=[answer])
    assert found == pytest.approx(RewardModel.load(run.directory).scores([[*prompt, *answer]]))


@pytest.mark.slow
def test_trainers_show_what_they_take() -> None:
    import trl

    assert inspect.signature(fastft.DPOTrainer) == inspect.signature(trl.DPOTrainer)
    assert list(inspect.signature(fastft.GRPOTrainer).parameters)[:3] == ["model", "reward_funcs", "args"]
    assert "formatting_func" in inspect.signature(fastft.SFTTrainer).parameters
    with pytest.raises(TypeError, match="several values for model"):
        fastft.SFTTrainer("fastft/tiny", model="fastft/tiny")


@pytest.mark.slow
def test_the_quick_start_of_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config, and whatever follows from the model's name."""
    from fastft.rewards import think_format_reward

    monkeypatch.chdir(tmp_path)
    trainer = fastft.SFTTrainer(model="fastft/tiny", train_dataset=dataset(MESSAGES))
    assert (trainer.args.output_dir, trainer.args.learning_rate) == ("tiny-SFT", 2e-5)
    trainer.train()
    assert trainer.state.global_step == 3  # three epochs of eight rows
    online = fastft.GRPOTrainer(
        model="fastft/tiny",
        reward_funcs=think_format_reward,
        train_dataset=dataset(PROMPTS),
    )
    assert (online.args.output_dir, online.num_generations) == ("tiny-GRPO", 8)
    assert online.train_dataset.to_dict() == dataset(PROMPTS).to_dict()


# callbacks


@pytest.mark.slow
def test_callbacks_evaluate_and_save_every_so_many_steps(tmp_path: Path) -> None:
    from transformers.integrations.integration_utils import WandbCallback

    callbacks = [fastft.ValidationCallback(2), fastft.CheckpointCallback(steps=3)]
    args = fastft.SFTConfig(str(tmp_path), **{**QUICK, "max_steps": 5})
    trainer = fastft.SFTTrainer("fastft/tiny", args, train_dataset=dataset(SHAREGPT), eval_dataset=dataset(ALPACA),
                                callbacks=callbacks)  # fmt: skip
    trainer.train()
    assert [e["step"] for e in trainer.state.log_history if "eval_loss" in e] == [2, 4, 5]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]
    assert fastft.WandbCallback is WandbCallback
    with pytest.raises(ValueError, match=r"CheckpointCallback\(steps=0\)"):
        fastft.CheckpointCallback(0)


# scripts


def translated(script: str, folder: Path) -> Path:
    """TRL's own script with `fastft` for `trl` in its imports, and nothing else changed."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "scripts" / f"{script}.py").read_text()
    text, count = re.subn(r"^(\s*from )trl\b", r"\1fastft", source, flags=re.M)
    assert count >= 2
    assert not re.search(r"^\s*(from|import) trl\b", text, re.M)
    path = folder / f"{script}.py"
    path.write_text(text)
    return path


def command_line(script: str, folder: Path) -> list[str]:
    data = folder / "data"
    data.mkdir()
    for split in ("train", "test"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SCRIPT_ROWS[script]))
    arguments = [
        "--model_name_or_path",
        "fastft/tiny",
        "--dataset_name",
        str(data),
        "--output_dir",
        str(folder / "out"),
    ]
    arguments += [
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "1",
    ]
    arguments += ["--per_device_eval_batch_size", "2"]
    if script in ("grpo", "rloo"):
        arguments += ["--reward_funcs", "think_format_reward", "--num_generations", "2", "--max_completion_length", "8"]
    if script in ("dpo", "reward"):
        arguments += ["--use_peft", "--lora_r", "4"]
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_trls_own_script_runs_with_its_import_changed(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = translated(script, tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *command_line(script, tmp_path)])
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []
    trainer = getattr(fastft, OURS_OF[script])
    original = trainer.train
    monkeypatch.setattr(trainer, "train", lambda self, *a, **k: (made.append(self), original(self, *a, **k))[1])
    runpy.run_path(str(path), run_name="__main__")
    state = made[0].state
    assert state.global_step == 2
    assert sum("eval_loss" in entry for entry in state.log_history) == 2
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter_model.safetensors" if script in ("dpo", "reward") else "model.safetensors") in saved


OURS_OF = {"sft": "SFTTrainer", "dpo": "DPOTrainer", "kto": "KTOTrainer", "reward": "RewardTrainer",
           "grpo": "GRPOTrainer", "rloo": "RLOOTrainer"}  # fmt: skip


@pytest.mark.slow
def test_a_script_runs_as_a_program(tmp_path: Path) -> None:
    path = translated("sft", tmp_path)
    arguments = [*command_line("sft", tmp_path), "--packing", "--assistant_only_loss", "--load_in_4bit", "--use_peft"]
    done = subprocess.run(
        [sys.executable, str(path), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Training completed" in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "out" / "checkpoint-2").is_dir()
