"""Options of dpo, orpo, cpo and kto that TRL would refuse late, or leave aside: told before anything loads."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from fastft.recipe.named_values import losses_with_f_divergence, names_of
from fastft.recipe.trl_config import config_fields
from tests.recipe.conftest import FaultsOf

HELD_OUT = "  eval_split: 0.1\n"

# method | override | part of found | part of expected | part of hint
CLASHES = [
    ("dpo", "data.train_on=last", "which learns from pairs of answers", "assistant", "compared whole"),
    ("kto", "data.truncation=keep_end", "which learns from judged", "keep_start or drop", "prompt"),
    ("orpo", "data.truncation=split_turns", "from pairs", "keep_start or drop", ""),
    ("cpo", "evaluation.samples=5", "found 5 with method: cpo", "0", "no one right answer"),
    ("dpo", "training.packing=true", "unknown key", "", "packing is for method sft"),
    ("dpo", "training.beta=0", "found 0", "above 0", ""),
    ("kto", "training.beta=-1", "found -1", "at least 0", ""),
    ("dpo", "training.label_smoothing=0.5", "found 0.5", "below 0.5", ""),
    ("dpo", "training.label_smoothing=0.1", "loss_type: sigmoid", "robust or exo", ""),
    ("dpo", "training.loss_type=exo_pair", "without label_smoothing", "1e-3", ""),
    ("dpo", "training.loss_type=simpo", '"simpo"', "apo_down, discopop, sft, sig", "method: cpo"),
    ("dpo", "training.loss_type=[sigmoid, ipoo]", "ipoo", "one of sigmoid", "Did you mean ipo?"),
    ("dpo", "training.loss_type=[]", "found []", "or a list of these", ""),
    ("dpo", "training.loss_weights=[1, 2]", "with 1 loss_type", "1 numbers", ""),
    ("dpo", "training.f_divergence_type=kl", '"kl"', "forward_kl, js_divergence", ""),
    ("dpo", "training.discopop_tau=0.1", "doesn't read it", "loss_type: discopop", ""),
    ("dpo", "training.ld_alpha=1.5", "found 1.5", "at most 1", ""),
    ("dpo", "training.sync_ref_model=true", "cannot be set", "", "without its adapter"),
    (
        "dpo",
        "training.train_sampling_strategy=group_by_length",
        "dpo",
        "random",
        "",
    ),
    (
        "dpo",
        "training.label_smoothing_factor=0.1",
        "cannot be set",
        "",
        "supervised",
    ),
    ("cpo", "training.loss_type=alphapo", "without alpha", "alpha, e.g.", ""),
    ("cpo", "training.simpo_gamma=1", "loss_type: sigmoid", "simpo or alphapo", ""),
    ("cpo", "training.loss_type=kto_pair", "kto_pair", "one of sigmoid", "method: kto"),
    ("kto", "training.per_device_train_batch_size=1", "1", "at least 2", "KL"),
    ("kto", "training.train_sampling_strategy=random", "random", "sequential", ""),
    ("kto", "training.desirable_weight=-1", "found -1", "at least 0", ""),
]


@pytest.mark.parametrize(("method", "wrong", "found", "expected", "hint"), CLASHES, ids=[c[1] for c in CLASHES])
def test_one_fault_says_it(method: str, wrong: str, found: str, expected: str, hint: str, faults_of: FaultsOf) -> None:
    (fault,) = faults_of(HELD_OUT + f"method: {method}\n", [wrong])
    assert fault.where == f"override {wrong}"
    assert found in fault.found
    assert expected in fault.expected
    assert hint in fault.hint


def test_everything_wrong_with_a_list_of_losses_is_told_at_once(faults_of: FaultsOf) -> None:
    training = "{loss_type: [aot, sigmoid], loss_weights: [1], use_weighting: true, f_divergence_type: forward_kl}"
    faults = faults_of(f"method: dpo\ntraining: {training}\n")
    assert [fault.where.split(".")[-1] for fault in faults] == ["loss_weights", "f_divergence_type", "use_weighting"]


@pytest.mark.parametrize("said", ["data.train_on=last", "data.truncation=keep_end", "evaluation.samples=5"])
def test_supervised_fine_tuning_takes_what_pairs_do_not(said: str) -> None:
    load_recipe({**_recipe("sft", {}), "data": {"path": "a/b", "eval_split": 0.1}}, [said])


ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("dpo", {"loss_type": "ipo"}),
    ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.2]}),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.1, "f_divergence_type": "forward_kl"}),
    ("dpo", {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 4}),
    ("cpo", {"loss_type": "simpo", "cpo_alpha": 0, "simpo_gamma": 0.5}),
    ("cpo", {"loss_type": "alphapo", "alpha": 0.25}),
    ("kto", {"loss_type": "apo_zero_unpaired", "train_sampling_strategy": "random", "per_device_train_batch_size": 1}),
    ("orpo", {"beta": 0.2, "train_sampling_strategy": "sequential"}),
]


def _recipe(method: str, training: dict[str, Any]) -> dict[str, Any]:
    model = {"model_name": "fastft/tiny"}
    return {"model": model, "lora": {"r": 8}, "data": {"path": "a/b"}, "method": method, "training": training}


@pytest.mark.parametrize(("method", "training"), ALLOWED)
def test_what_trl_takes_is_taken_as_it_is(method: str, training: dict[str, Any]) -> None:
    assert load_recipe(_recipe(method, training)).training == training


@pytest.mark.parametrize("loss", names_of("dpo", "loss_type"))
def test_every_loss_of_dpo_is_taken_alone_and_in_a_list(loss: str) -> None:
    smoothing = {"label_smoothing": 1e-3} if loss == "exo_pair" else {}
    for given in (loss, [loss]):
        assert load_recipe(_recipe("dpo", {"loss_type": given, **smoothing})).training["loss_type"] == given


def test_the_names_are_those_of_trls_own_words() -> None:
    """They are read from what the trainer compares with; its config's help says them in prose."""
    for field, quote in (("loss_type", "'"), ("f_divergence_type", "")):
        said = re.search(r"Possible values are:(.*?)\.", config_fields("dpo")[field].help)
        assert said is not None
        assert tuple(re.findall(f"`{quote}(\\w+){quote}`", said.group(1))) == names_of("dpo", field)
    assert len(names_of("dpo", "loss_type")) == 15
    assert set(losses_with_f_divergence()) < set(names_of("dpo", "loss_type"))
    assert len(losses_with_f_divergence()) == 8


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("method: simpo", "SimPO is method: cpo with training.loss_type: simpo and training.cpo_alpha: 0"),
        ("method: ppo", "take grpo or rloo, for pairs of answers dpo, for a reward model reward"),
        ("rl: dpo", "In fastft it is method"),
        ("stage: kto", "In fastft it is method"),
        ("pref_loss: orpo", "In fastft it is training.loss_type"),
        ("pref_beta: 0.1", "In fastft it is training.beta"),
        ("dpo_beta: 0.1", "In fastft it is training.beta"),
        ("rl_beta: 0.1", "In fastft it is training.beta"),
        ("orpo_alpha: 0.1", "In fastft it is training.beta"),
        ("simpo_gamma: 0.5", "simpo_gamma is for method cpo"),
        ("kto_desirable_weight: 0.2", "In fastft it is training.desirable_weight"),
        ("kto_rejected_weight: 0.2", "In fastft it is training.undesirable_weight"),
        ("ref_model: a/b", "the reference is the model as it is when training starts"),
        ("ppo_epochs: 4", "TRL has removed its PPO trainer"),
    ],
)
def test_what_other_tools_call_it(key: str, said: str, faults_of: FaultsOf) -> None:
    (fault,) = faults_of(key + "\n")
    assert said in fault.hint


def test_a_misspelt_method_is_told_with_those_there_are() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(_recipe("orpoo", {}))
    (fault,) = caught.value.faults
    assert "dpo, orpo, cpo, kto" in fault.expected
    assert fault.hint == "Did you mean orpo?"
