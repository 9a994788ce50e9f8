"""What is read from the sources of TRL and transformers is what the imported class has."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fastft.recipe.describe import choices
from fastft.recipe.owned import OWNED
from fastft.recipe.training_arguments import settable, training_field
from fastft.recipe.trl_config import config_fields, reporting_integrations

# In a process of its own: the import takes ten seconds of everybody's memory otherwise.
_REAL = """
import dataclasses, json
from transformers.trainer_utils import SchedulerType, SaveStrategy, IntervalStrategy
from transformers.training_args import OptimizerNames
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import SFTConfig
fields = {f.name: f for f in dataclasses.fields(SFTConfig)}
print(json.dumps({
    "names": [n for n, f in fields.items() if f.init],
    "defaults": {n: f.default for n, f in fields.items() if isinstance(f.default, (int, float, str, bool))},
    "choices": {n: f.metadata["choices"] for n, f in fields.items() if isinstance(f.metadata.get("choices"), list)},
    "enums": {"optim": [e.value for e in OptimizerNames], "lr_scheduler_type": [e.value for e in SchedulerType],
              "save_strategy": [e.value for e in SaveStrategy], "eval_strategy": [e.value for e in IntervalStrategy]},
    "trackers": list(INTEGRATION_TO_CALLBACK),
}))
"""


@pytest.mark.slow
def test_the_parsed_fields_are_those_of_the_class() -> None:
    done = subprocess.run([sys.executable, "-c", _REAL], capture_output=True, text=True, check=True)
    real = json.loads(done.stdout.splitlines()[-1])
    parsed = config_fields("sft")

    assert set(parsed) == set(real["names"])
    computed = {"optim"}  # its default depends on the version of torch
    assert {n: parsed[n].default for n in real["defaults"] if n not in computed} == {
        n: default for n, default in real["defaults"].items() if n not in computed
    }
    assert {n: list(choices(parsed[n].annotation)) for n in real["choices"]} == real["choices"]
    assert {n: list(choices(parsed[n].annotation)) for n in real["enums"]} == real["enums"]
    assert list(reporting_integrations()) == real["trackers"]


def test_the_fields_that_a_recipe_cannot_set_exist() -> None:
    assert set(OWNED) <= set(config_fields("sft"))
    assert not set(OWNED) & set(settable("sft"))


def test_every_settable_field_has_a_type_and_words() -> None:
    from fastft.recipe.reference import schema_reference

    reference = {(entry.section, entry.key): entry for entry in schema_reference()}
    assert {key for section, key in reference if section == "training"} == set(settable("sft"))
    assert reference["training", "learning_rate"].takes == "a number above 0 and at most 1"
    assert reference["training", "learning_rate"].default == 2e-5
    assert reference["training", "eval_strategy"].takes == "one of no, steps, epoch"
    assert reference["training", "neftune_noise_alpha"].takes == "a number above 0 or null"
    assert reference["model", "max_seq_length"].default is None
    assert reference["lora", "use_gradient_checkpointing"].takes == "true or false or one of unsloth, auto"
    assert all(entry.description and entry.takes for entry in reference.values())


def test_help_is_the_librarys() -> None:
    assert training_field("packing", "sft").description.startswith("Whether to group multiple sequences")  # type: ignore[union-attr]
