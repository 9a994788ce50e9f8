"""The sections of a recipe. Keys are spelled as in the library that consumes them; `load.load_recipe` builds these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
)

from fastft.errors import Fault
from fastft.recipe import checks, yaml_text
from fastft.recipe.bad_steps_section import BadStepsSection
from fastft.recipe.comfort_sections import EarlyStoppingSection, check_learning_rates
from fastft.recipe.data_section import DataSection
from fastft.recipe.export_section import ExportSection
from fastft.recipe.rewards_section import RewardSection
from fastft.recipe.section import NonEmpty, Section
from fastft.recipe.training_arguments import check_training
from fastft.trainers import find_method

Dtype = Literal["bfloat16", "float16", "float32"]
MethodName = Literal["sft", "dpo", "orpo", "cpo", "kto", "reward", "grpo", "rloo", "pretrain"]


class ModelSection(Section):
    """What is trained: arguments of Unsloth's `FastLanguageModel.from_pretrained`."""

    model_name: NonEmpty = Field(
        description="The model to start from.",
        json_schema_extra={"expected": "a Hub id (owner/name), a local folder, or fastft/tiny"},
    )
    max_seq_length: int | None = Field(
        default=None,
        ge=8,
        description="Longest sequence in tokens the model is set up for; null = training.max_length, else 2048, or "
        "what the model can do if that is less.",
    )
    load_in_8bit: bool = Field(default=False, description="Load the frozen base in 8 bits.")
    load_in_16bit: bool = Field(default=False, description="Load the frozen base in 16 bits (plain LoRA).")
    full_finetuning: bool = Field(default=False, description="Train every weight; then there is no lora section.")
    # Declared after the fields its default is made from.
    load_in_4bit: bool = Field(
        default_factory=lambda given: (
            not any(given.get(key) for key in ("load_in_8bit", "load_in_16bit", "full_finetuning"))
        ),
        description="Load the frozen base in 4 bits (QLoRA). On unless another way of loading is chosen.",
    )
    dtype: Dtype | None = Field(default=None, description="Compute type; null takes bfloat16 where the device has it.")
    revision: NonEmpty | None = Field(default=None, description="Branch, tag or commit of the model on the Hub.")
    trust_remote_code: Annotated[Literal[False] | str, PlainValidator(checks.check_trust)] = Field(
        default=False,
        description="Run Python code that comes with the model: NAME@REVISION of exactly that code, as check tells it.",
        json_schema_extra={"expected": "false, or NAME@REVISION"},
    )


class LoraSection(Section):
    """What is added to the model and trained: arguments of `FastLanguageModel.get_peft_model`."""

    r: int = Field(
        default=16, ge=1, le=4096, description="Rank of the update; more can learn more and costs more memory."
    )
    lora_alpha: int | None = Field(default=None, ge=1, description="Scale of the update, lora_alpha / r; null = r.")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the update.")
    target_modules: Annotated[
        Literal["auto", "all-linear"] | NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)],
        BeforeValidator(checks.check_target_modules),
    ] = Field(
        default="auto",
        description="Layers that get an update; auto = attention and MLP projections. A regular expression is matched "
        "with whole module names, as PEFT does.",
        json_schema_extra={"expected": "auto, all-linear, a list of texts (module names), or a regular expression"},
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none", description="Biases trained; none is the fast path."
    )
    use_rslora: bool = Field(default=False, description="Scale by lora_alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(default=False, description="Train magnitude and direction apart (DoRA); slower.")
    init_lora_weights: Annotated[bool | NonEmpty, PlainValidator(checks.check_init_lora_weights)] = Field(
        default=True,
        description="What the update starts from, by PEFT's names; true = a change of zero. pissa and olora start from "
        "parts of the base, and want load_in_16bit; the saved adapter fits the base as it was.",
        json_schema_extra={"expected": "true, gaussian, orthogonal, pissa, pissa_niter_N or olora"},
    )
    use_gradient_checkpointing: bool | Literal["unsloth", "auto"] = Field(
        default="auto",
        description="Recompute activations to save memory; unsloth also offloads them; auto = only if they don't fit.",
    )
    random_state: int = Field(default=3407, ge=0, description="Seed of the update's first weights.")
    modules_to_save: list[NonEmpty] | None = Field(default=None, description="Layers trained whole beside the updates.")
    layers_to_transform: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, description="Indices of the layers that get updates; null = all."
    )
    adapter_name_or_path: NonEmpty | None = Field(
        default=None,
        description="A run directory, or a folder with a PEFT LoRA, to go on training; its rank, scale and layers are "
        "its own.",
        json_schema_extra={"expected": "a run directory, or a folder with adapter_config.json"},
    )

    def own(self) -> dict[str, Any]:
        """The values that are the recipe's: beside an adapter to go on with, the other keys say nothing."""
        values = self.model_dump(mode="json", exclude_none=True)
        if self.adapter_name_or_path is None:
            return values
        return {key: value for key, value in values.items() if key in BESIDE_ADAPTER}


BESIDE_ADAPTER = ("adapter_name_or_path", "use_gradient_checkpointing", "random_state")


class EvaluationSection(Section):
    """What is asked before and after training."""

    prompts: Annotated[tuple[NonEmpty, ...], BeforeValidator(checks.one_or_many)] = Field(
        default=(), description="Prompts answered before and after training, side by side."
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Longest answer in tokens.")
    samples: int = Field(default=64, ge=0, description="Held-out conversations answered and compared; 0 = none.")
    sample_steps: int | None = Field(
        default=None, ge=1, description="The prompts are also answered every so many steps, into samples.jsonl."
    )


def _training_of_method(values: Any, info: ValidationInfo) -> Any:
    """Where the method is at fault itself, there is nothing to check its arguments by."""
    return check_training(values, info.data["method"]) if "method" in info.data else {}


TrainingSection = Annotated[
    Mapping[str, Any],
    PlainValidator(_training_of_method),
    AfterValidator(MappingProxyType),
    PlainSerializer(dict),
]


class Recipe(Section):
    """A whole recipe, checked. Frozen; make another with `load_recipe(recipe, overrides)`."""

    model: ModelSection = Field(description="What is trained.")
    lora: LoraSection | None = Field(default=None, description="The LoRA update; null with model.full_finetuning.")
    data: DataSection = Field(description="What is learned from.")
    method: MethodName = Field(default="sft", description="How it is trained.")
    training: TrainingSection = Field(
        default_factory=lambda: MappingProxyType({}), description="Fields of the method's config in TRL, as set."
    )
    rewards: tuple[RewardSection, ...] = Field(
        default=(),
        description="What answers are rewarded for, in grpo and rloo: a list of file.py:function, names of built-in "
        "measures, or {function | builtin | run, weight, arguments}.",
    )
    learning_rates: Annotated[
        Mapping[str, float],
        PlainValidator(check_learning_rates),
        AfterValidator(MappingProxyType),
        PlainSerializer(dict),
    ] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Rates of their own: a regular expression searched for in parameter names -> learning rate, as "
        "{embed_tokens|lm_head: 5e-5}. The first that fits counts.",
        json_schema_extra={"expected": "a mapping of regular expressions to learning rates"},
    )
    early_stopping: EarlyStoppingSection | None = Field(
        default=None, description="Training ends where evaluations no longer improve; null = it doesn't."
    )
    bad_steps: BadStepsSection = Field(
        default_factory=lambda: BadStepsSection.model_validate({}),
        description="What is done about a loss that is no number, a spike of it, or a step with nothing supervised.",
    )
    callbacks: Annotated[tuple[NonEmpty, ...], BeforeValidator(checks.one_or_many)] = Field(
        default=(),
        description="TrainerCallbacks of your own, called at every step: a list of file.py:Name, class or instance.",
        json_schema_extra={"expected": "a list of file.py:Name"},
    )
    evaluation: EvaluationSection = Field(
        default_factory=lambda: EvaluationSection.model_validate({}), description="What is asked before and after."
    )
    export: ExportSection = Field(
        default_factory=lambda: ExportSection.model_validate({}), description="What is made of the trained model."
    )
    output_dir: NonEmpty = Field(default="runs/recipe", description="The run directory.")
    _source: Path | None = PrivateAttr(None)
    _where: Callable[[str], str] = PrivateAttr(str)

    @property
    def source(self) -> Path | None:
        """The file the recipe was read from; no part of its content."""
        return self._source

    def read_from(self, source: Path | None, where: Callable[[str], str]) -> Self:
        """A copy that says which file it was read from, and by `where` at which line a dotted key stands."""
        copied = self.model_copy()
        copied._source, copied._where = source, where
        return copied

    def fault(self, key: str, found: str, expected: str, hint: str = "") -> Fault:
        """What is wrong with the value of a dotted key, and where that was written."""
        return Fault(self._where(key), found, expected, hint)

    def as_dict(self) -> dict[str, Any]:
        """Plain values of every key that has an effect in this recipe, defaults included, in the schema's order."""
        values = self.model_dump(mode="json")
        for section in ("model", "lora", "data", "evaluation", "export"):
            if values[section] is not None:
                values[section] = {key: value for key, value in values[section].items() if value is not None}
        if self.lora is None:
            del values["lora"]
        else:
            values["lora"] = self.lora.own()
        values["rewards"] = [dict(reward.said()) for reward in self.rewards]
        if not self.rewards:
            del values["rewards"]
        for key in ("learning_rates", "early_stopping", "callbacks"):
            if not values[key]:
                del values[key]
        values["bad_steps"] = self.bad_steps.model_dump(exclude_defaults=True)
        if not values["bad_steps"]:
            del values["bad_steps"]
        method = find_method(self.method)
        learned = method.kind == "conversation" and not method.texts  # there are answers to compare
        if self.data.eval_split is None or (not learned and self.evaluation.samples):
            del values["evaluation"]["samples"]
        for key, default in (("train_on", "assistant"), ("truncation", "keep_start")) if method.texts else ():
            if values["data"][key] == default:
                del values["data"][key]
        if "gguf" not in self.export.formats:
            del values["export"]["quantization_method"]
        if "hub" not in self.export.formats:
            values["export"].pop("hub_model_id", None)
            del values["export"]["hub_private_repo"]
        return values

    def to_yaml(self) -> str:
        """The recipe as resolved; `load_recipe` of it gives an equal Recipe."""
        return yaml_text.dump(self.as_dict())

    def __eq__(self, other: object) -> bool:
        """Equal content; the file it came from doesn't matter."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()
