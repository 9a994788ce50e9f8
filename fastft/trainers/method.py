"""What a training method is: what its data must be, whose fields it takes, what it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastft.data.formats import Kind
    from fastft.data.prepare import PreparedData
    from fastft.recipe.rewards_section import RewardSection


@dataclass(frozen=True, slots=True)
class Default:
    """One chosen value with its reason, for the table that is printed before training."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates by what is trained, and where they are from. `tiny` is for LoRAs on models below 100 M."""

    lora: float
    full: float
    tiny: float
    reason: str


@dataclass(frozen=True, slots=True)
class Method:
    """One method, as its file under trainers/ declares it. Reading it imports neither torch nor TRL."""

    name: str
    about: str
    kind: Kind
    config: tuple[str, str, str]  # package, file and class of the configuration that `training:` takes the fields of
    rates: Rates | None = None  # None: by the model's size, see defaults.py
    defaults: tuple[Default, ...] = ()  # what it wants otherwise than supervised fine-tuning
    measures: Mapping[str, str] = field(default_factory=dict)  # key of trainer.evaluate -> what it is called in tables
    displayed: tuple[str, ...] = ()  # logged keys shown beside the loss while it trains
    owned: Mapping[str, str] = field(default_factory=dict)  # further fields a recipe doesn't set: what to do instead
    sequences: int = 1  # sequences the model computes for one row: a pair is two
    padded: bool = False  # batches are padded to their longest row
    generates: bool = False  # the model writes the answers itself while it trains
    classifies: bool = False  # the trained model gives a score, not text
    texts: bool = False  # raw texts are learned whole; what is longer than the maximum length goes on in the next one
    warns: Callable[[PreparedData, Mapping[str, Any]], Sequence[str]] | None = None  # of data and arguments, in `check`


@dataclass(frozen=True, slots=True)
class Job:
    """All that a method's `build_trainer` is given. `arguments` are its config's fields, defaults resolved."""

    model: Any
    tokenizer: Any  # transformers' tokenizer, with the template that was checked
    data: PreparedData
    arguments: Mapping[str, Any]
    checkpoints: Path
    callbacks: Sequence[Any] = ()
    rewards: tuple[RewardSection, ...] = ()

    def config(self) -> dict[str, Any]:
        """Fields for TRL's config: no remote reporting and no display but ours, unless the recipe says so."""
        quiet = {"report_to": "none", "disable_tqdm": True}
        arguments = dict(self.arguments)
        if arguments.get("train_sampling_strategy") == "group_by_length":
            # lengths.group_by_length sees to it; transformers' own sampler would look for input_ids in pairs, too.
            del arguments["train_sampling_strategy"]
        named = {"output_dir": str(self.checkpoints), "run_name": self.checkpoints.parent.name}
        return {**named, **quiet, **arguments}

    @property
    def evaluates(self) -> bool:
        """Whether the trainer shall evaluate while it trains; before and after is done in any case."""
        return bool(self.data.evaluation_conversations) and str(self.arguments.get("eval_strategy", "no")) != "no"
