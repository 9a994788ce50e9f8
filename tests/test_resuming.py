"""Runs that were stopped in many ways go on to the same end: weights, optimiser, random state, every line they wrote.

Each command is a process of its own (warm_processes), and signals come at exact steps through a callback of the recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastft.checkpoints import whole_checkpoint
from tests.same_runs import left_behind, results, same_states
from tests.short_runs import write_chats, write_pairs
from tests.warm_processes import Warm, warm_processes

pytestmark = pytest.mark.slow

STEPS = 12
ALL = os.environ.get("FASTFT_RESUMES") == "all"  # some five minutes
BY_DEFAULT = ("points of several steps, pairs", "an evaluation broken off twice", "an early end")
# Sends this process the signal FASTFT_TEST_SIGNAL where FASTFT_TEST_AT says: "end 5", "begin 5", "evaluating 6", …
CALLBACK = """
import multiprocessing, os, signal, subprocess
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

class Sent(TrainerCallback, ExportableState):
    last = None
    def state(self):
        if self.last is not None:
            self._maybe("saving", self.last)
        return {"args": {}, "attributes": {}}
    def _maybe(self, where, state):
        sent = [tuple(at.split()) for at in os.environ.get("FASTFT_TEST_AT", "").split(",")]
        if (where, str(state.global_step)) in sent:
            sent = os.environ["FASTFT_TEST_SIGNAL"]
            if children := [str(child.pid) for child in multiprocessing.active_children()]:
                subprocess.run(["kill", "-s", sent.removeprefix("SIG"), *children])  # as not from their parent
            os.kill(os.getpid(), getattr(signal, sent))
    def on_step_begin(self, args, state, control, **kwargs):
        self._maybe("begin", state)
    def on_step_end(self, args, state, control, **kwargs):
        self.last = state
        self._maybe("end", state)
    def on_log(self, args, state, control, **kwargs):
        self._maybe("logged", state)
    def on_prediction_step(self, args, state, control, **kwargs):
        self._maybe("evaluating", state)
    def on_save(self, args, state, control, **kwargs):
        self._maybe("saved", state)
    def on_train_end(self, args, state, control, **kwargs):
        self._maybe("trained", state)

class Counting(TrainerCallback, ExportableState):
    # Changes what is learned by what it has counted itself.
    def __init__(self, counted=0):
        self.counted = counted
    def state(self):
        return {"args": {"counted": self.counted}, "attributes": {}}
    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.counted += 1
        next(p for n, p in model.named_parameters() if "lora_B" in n).data.mul_(1 + self.counted / 100)
"""
REWARD = """
def short(completions, **columns):
    return [-len(str(text)) / 40 for text in completions]
"""


def _write_prompts(path: Path) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"Say the number {n}."}) + "\n" for n in range(20)))
    return path


def _write_judged(path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": text}], "label": label}
        for n in range(12)
        for text, label in ((f"It is {n}.", True), ("No.", False))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _write_texts(path: Path) -> Path:
    texts = [f"The house number {n} is {n * 7 % 13} metres high. " * (1 + n % 4) for n in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


_PAIRS = {"write": write_pairs, "training": {"per_device_train_batch_size": 2}}
_ONLINE: dict[str, Any] = {
    "write": _write_prompts,
    "training": {
        "num_generations": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "max_completion_length": 12,
    },
}  # fmt: skip
# Of each case: what is added to the recipe.
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"write": write_chats, "training": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}},
    "dpo": _PAIRS,
    "orpo": _PAIRS,
    "cpo": _PAIRS,
    "reward": _PAIRS,
    "kto": {"write": _write_judged, "training": {"per_device_train_batch_size": 4}},
    "grpo": _ONLINE,
    "rloo": _ONLINE,
    "pretrain": {"write": _write_texts, "training": {"per_device_train_batch_size": 2}},
}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with warm_processes() as warm:
        yield warm


class Case:
    """One recipe, trained whole once, and stopped and resumed as often as asked."""

    def __init__(self, warm: Warm, folder: Path, method: str, **sections: Any) -> None:
        self.warm, self.folder = warm, folder
        kind = METHODS[method]
        rows = kind["write"](folder / "rows.jsonl")
        (folder / "sent.py").write_text(CALLBACK)
        (folder / "rewards.py").write_text(REWARD)
        training = {"max_steps": STEPS, "logging_steps": 1, "save_steps": 5, "seed": 7} | kind["training"]
        training |= sections.pop("training", {})
        content = {
            "model": {"model_name": "fastft/tiny", "max_seq_length": 128, **sections.pop("model", {})},
            "lora": {"r": 4, "use_gradient_checkpointing": False} | sections.pop("lora", {}),
            "data": {"path": str(rows), "eval_split": 4},
            "method": method,
            "training": {key: value for key, value in training.items() if value is not None},
            "callbacks": [f"{folder / 'sent.py'}:{name}" for name in ("Sent", *sections.pop("callback", {}))],
            "evaluation": {"samples": 0} if method in ("sft",) else {},
            **sections,
        }
        if method in ("grpo", "rloo"):
            content["rewards"] = [str(folder / "rewards.py") + ":short"]
        if content["model"].get("full_finetuning"):
            del content["lora"]
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(content))
        self.whole = folder / "whole" / "run"
        assert self.train(self.whole) == 0, self.said

    def train(self, run: Path, *more: str, at: str = "", sends: str = "SIGTERM") -> int:
        """The exit status of training into `run`, the signal `sends` coming `at` points as the callback says."""
        log = run.with_name("said.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        named = [self.recipe, "--output-dir", run, *more]
        status = self.warm.run(["train", *named], log, FASTFT_TEST_AT=at, FASTFT_TEST_SIGNAL=sends)
        self.said = log.read_text(errors="replace")
        return status

    def stopped(self, *stops: tuple[str, str]) -> Path:
        """A run that was stopped so, once after the other, and then went on to its end."""
        run = self.folder / "-".join(f"{at}.{sends}".replace(" ", "") for at, sends in stops) / "run"
        for at, sends in stops:
            status = self.train(run, at=at, sends=sends)
            assert status == {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGKILL": -9}[sends], self.said
            assert "Traceback" not in self.said
        assert self.train(run) == 0, self.said
        return run

    def same(self, run: Path) -> None:
        found, expected = results(run), results(self.whole)
        assert found["points"] == expected["points"]
        assert found == expected
        assert not left_behind(run)
        if whole_checkpoint(self.whole / "checkpoints") is not None:
            same_states(run, self.whole)


@pytest.mark.parametrize("method", METHODS if ALL else ("grpo",))
def test_every_method_goes_on_to_the_same_end(method: str, warm: Warm, tmp_path: Path) -> None:
    """Asked to stop, killed in another place after that, and killed between two checkpoints."""
    case = Case(warm, tmp_path, method)
    case.same(case.stopped(("begin 3", "SIGTERM"), ("end 8", "SIGKILL")))


def test_an_evaluation_before_the_first_step_is_left_at_once(warm: Warm, tmp_path: Path) -> None:
    """No step is taken for the sake of a checkpoint, and the run begins again with that evaluation."""
    case = Case(warm, tmp_path, "sft", training={**IN_THE_MIDDLE, "eval_on_start": True})
    run = tmp_path / "stopped" / "run"
    assert case.train(run, at="evaluating 0") == 143
    assert f"training stopped at step 0 of {STEPS}: SIGTERM" in case.said
    assert not (run / "metrics.jsonl").exists()
    assert case.train(run) == 0
    case.same(run)


WHOLE_WEIGHTS = {"model": {"full_finetuning": True}}
IN_THE_MIDDLE = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1}
BEST = {**IN_THE_MIDDLE, "load_best_model_at_end": True, "save_steps": 2, "save_total_limit": 1}
# name: method, what is added to its recipe, the stops of one run
CASES: dict[str, tuple[str, dict[str, Any], list[tuple[str, str]]]] = {
    "points of several steps": (
        "sft", {"training": {"logging_steps": 5}}, [("begin 3", "SIGTERM"), ("end 7", "SIGTERM")],
    ),
    "points of several steps, pairs": ("dpo", {"training": {"logging_steps": 5}}, [("begin 7", "SIGINT")]),
    "points of several steps, ORPO": ("orpo", {"training": {"logging_steps": 5}}, [("begin 7", "SIGTERM")]),
    "evaluations between": ("sft", {"training": IN_THE_MIDDLE}, [("begin 3", "SIGTERM"), ("end 8", "SIGKILL")]),
    "an evaluation broken off": ("sft", {"training": IN_THE_MIDDLE}, [("evaluating 4", "SIGTERM")]),
    "an evaluation broken off twice": (
        "sft", {"training": IN_THE_MIDDLE, "lora": {"lora_dropout": 0.2}},
        [("evaluating 4", "SIGTERM"), ("evaluating 4", "SIGTERM"), ("evaluating 8", "SIGKILL")],
    ),
    "the last evaluation broken off": ("dpo", {"training": IN_THE_MIDDLE}, [("evaluating 12", "SIGTERM")]),
    "an evaluation of answers broken off": ("grpo", {"training": IN_THE_MIDDLE}, [("evaluating 4", "SIGTERM")]),
    "the best one": ("sft", {"training": BEST | {"learning_rate": 0.5}}, [("end 5", "SIGTERM"), ("end 11", "SIGKILL")]),
    "the best one, in an evaluation": ("sft", {"training": BEST}, [("evaluating 6", "SIGTERM")]),
    "saved where it is the best": (
        "sft", {"training": {**BEST, "save_strategy": "best", "save_steps": None}}, [("begin 5", "SIGTERM")],
    ),
    "an early end": (
        "sft", {"training": BEST | {"learning_rate": 0.5}, "early_stopping": {"patience": 2}},
        [("end 3", "SIGTERM"), ("saved 6", "SIGKILL")],
    ),
    "by epochs": (
        "sft",
        {"training": {"max_steps": 8, "eval_strategy": "epoch", "logging_strategy": "epoch", "save_steps": 2}
         | {"logging_steps": None}},
        [("begin 4", "SIGTERM"), ("end 6", "SIGTERM"), ("evaluating 8", "SIGTERM")],
    ),
    "saved by epochs": (
        "sft",
        {"training": {"max_steps": None, "num_train_epochs": 3, "save_strategy": "epoch", "save_steps": None}},
        [("begin 3", "SIGTERM"), ("saved 8", "SIGKILL")],
    ),
    "never saved but when asked": (
        "sft", {"training": {"save_strategy": "no", "save_steps": None, "logging_steps": 3}}, [("begin 5", "SIGTERM")],
    ),
    "killed amid a checkpoint": (
        "sft", {}, [("saving 5", "SIGKILL"), ("saving 5", "SIGKILL"), ("saving 10", "SIGKILL")],
    ),
    "asked twice, amid a checkpoint": ("dpo", {}, [("begin 7,saving 7", "SIGTERM"), ("begin 8,end 8", "SIGINT")]),
    "processes that load the data, told like this one": (
        "sft", {"training": {"dataloader_num_workers": 2}}, [("begin 1", "SIGTERM"), ("begin 5", "SIGINT")],
    ),
    "a callback that has a state": (
        "sft", {"callback": {"Counting": ""}}, [("begin 3", "SIGTERM"), ("end 8", "SIGKILL")],
    ),
    "a terminal that is closed": ("sft", {}, [("begin 7", "SIGHUP")]),
    "killed after the last checkpoint": ("sft", {"training": {"max_steps": 11}}, [("saved 11", "SIGKILL")]),
    "stopped after the last step": ("kto", {"training": {"max_steps": 11}}, [("logged 11", "SIGTERM")]),
    "judged answers, evaluated between and by epochs": (
        "kto",
        {"training": IN_THE_MIDDLE | {"max_steps": None, "num_train_epochs": 3, "gradient_accumulation_steps": 2}},
        [("end 3", "SIGTERM"), ("evaluating 4", "SIGTERM"), ("end 5", "SIGKILL")],
    ),
    "chance": (
        "sft", {"training": {"neftune_noise_alpha": 5}, "lora": {"lora_dropout": 0.3}},
        [("begin 3", "SIGTERM"), ("begin 10", "SIGKILL")],
    ),
    "packs": ("sft", {"training": {"packing": True, "per_device_train_batch_size": 1}}, [("begin 7", "SIGTERM")]),
    "whole weights": ("sft", WHOLE_WEIGHTS, [("begin 3", "SIGTERM"), ("begin 8", "SIGKILL")]),
    "whole weights, pairs": (
        "dpo", {**WHOLE_WEIGHTS, "training": {"precompute_ref_log_probs": True}}, [("begin 7", "SIGTERM")],
    ),
    "DoRA": ("sft", {"lora": {"use_dora": True}, "model": {"load_in_16bit": True}}, [("begin 7", "SIGTERM")]),
    "PiSSA": (
        "sft", {"lora": {"init_lora_weights": "pissa"}, "model": {"load_in_16bit": True}}, [("begin 7", "SIGTERM")],
    ),
    "rates of their own": (
        "sft", {"lora": {"modules_to_save": ["lm_head"]}, "learning_rates": {"lm_head": 1e-4}},
        [("begin 7", "SIGTERM")],
    ),
    "answers learned from twice": (
        "grpo", {"training": {"num_iterations": 2, "steps_per_generation": 4, "logging_steps": 2}},
        [("begin 3", "SIGTERM"), ("end 7", "SIGTERM")],
    ),
    "answers sampled between": (
        "sft", {"evaluation": {"samples": 0, "prompts": ["Hello!"], "sample_steps": 2}},
        [("begin 5", "SIGTERM"), ("begin 9", "SIGKILL")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES if ALL else BY_DEFAULT)
def test_it_goes_on_to_the_same_end_with(name: str, warm: Warm, tmp_path: Path) -> None:
    method, sections, stops = CASES[name]
    case = Case(warm, tmp_path, method, **{key: dict(value) for key, value in sections.items()})
    case.same(case.stopped(*stops))
