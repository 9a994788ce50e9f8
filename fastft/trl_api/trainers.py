"""TRL's trainers on Unsloth, fed with our ids and labels. They take all that TRL's take; docs/python.md says more."""

# ruff: noqa: E402
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from fastft import backend

backend.import_unsloth()  # before trl: the classes below are as unsloth left them

import trl
from trl.experimental.cpo import CPOTrainer as _CPOTrainer
from trl.experimental.orpo import ORPOTrainer as _ORPOTrainer

from fastft.data.formats.prompts import PROMPT_COLUMNS, PROMPTS
from fastft.trainers import dpo, kto
from fastft.trainers.pairs import fed_with_labels, labelled_pairs_dataset, pairs_dataset
from fastft.trainers.reward import scored_dataset
from fastft.trainers.sft import guard_supervised
from fastft.trl_api import configs
from fastft.trl_api.accepting import Accepting
from fastft.trl_api.prompts import with_prompts
from fastft.trl_api.rows import Wanted

if TYPE_CHECKING:
    from datasets import Dataset

    from fastft.data.prepare import PreparedData

_MOVED = {"dataset_text_field": "dataset_text_field", "max_seq_length": "max_length",
          "dataset_num_proc": "dataset_num_proc"}  # fmt: skip


class SFTTrainer(Accepting, trl.SFTTrainer):
    """TRL's SFTTrainer. Of conversations the assistant's turns alone are learned, by labels made while rendering.

    TRL's default learns every token of them; `SFTConfig(assistant_only_loss=False)` does that here too.
    """

    METHOD: ClassVar = "sft"
    CONFIG: ClassVar = configs.SFTConfig

    def _take_older_names(self, given: dict[str, Any]) -> None:
        """Arguments that moved into SFTConfig, which Unsloth's notebooks still give to the trainer."""
        super()._take_older_names(given)
        for name, field in _MOVED.items():
            if name in given:
                setattr(given["args"], field, given.pop(name))

    def _wanted(self, args: Any) -> Wanted:
        given = args.assistant_only_loss if isinstance(args, configs.SFTConfig) else args.assistant_only_loss or None
        return Wanted(
            kind="conversation",
            max_length=args.max_length,
            truncation=args.truncation_mode or "keep_start",
            text_field=args.dataset_text_field,
            all_of_conversations=given is False,
            all_of_prompts=args.completion_only_loss is False,
        )

    def _rows_of(self, prepared: PreparedData) -> Dataset:
        return prepared.train.dataset()

    @contextmanager
    def _for_trl(self, args: Any) -> Iterator[None]:
        """TRL would look for conversations, and for the template's marks, in rows that are ids and labels by now."""
        asked = args.assistant_only_loss
        args.assistant_only_loss = bool(asked) and self._supervised is None
        try:
            with super()._for_trl(args):
                yield
        finally:
            args.assistant_only_loss = asked

    def _settle(self) -> None:
        args: Any = self.args  # pyright: ignore[reportAttributeAccessIssue]
        if self._supervised is not None and getattr(args, "packs_on_cpu", False):
            backend.pack_on_cpu(self, args.max_length, args.packing_strategy)
        super()._settle()

    def _guard(self, dataset: Any, supervised: int) -> None:
        guard_supervised(dataset, supervised)


class DPOTrainer(Accepting, dpo.fed_with_ids(trl.DPOTrainer)):
    """TRL's DPOTrainer. The reference is the model as it is given: without its adapter, or a second copy."""

    METHOD: ClassVar = "dpo"
    LOADS_MORE: ClassVar = True
    CONFIG: ClassVar = configs.DPOConfig

    def _rows_of(self, prepared: PreparedData) -> Dataset:
        return pairs_dataset(prepared.train)


class KTOTrainer(Accepting, kto.fed_with_ids(trl.KTOTrainer)):
    """TRL's KTOTrainer. Pairs are taken apart into a wanted and an unwanted answer, as TRL does."""

    METHOD: ClassVar = "kto"
    LOADS_MORE: ClassVar = True
    CONFIG: ClassVar = configs.KTOConfig

    def _shaped(self, dataset: Dataset) -> Dataset:
        if not {"chosen", "rejected"} <= set(dataset.column_names):
            return dataset
        if not set(PROMPTS) & set(dataset.column_names):
            dataset = dataset.map(trl.extract_prompt)
        prompted = with_prompts(dataset, "the pairs")
        layouts = [c for c in PROMPT_COLUMNS if c not in ("prompt", "tools") and c in dataset.column_names]
        prompted = prompted.remove_columns(layouts) if prompted is not dataset else dataset
        return trl.unpair_preference_dataset(prompted)

    def _rows_of(self, prepared: PreparedData) -> Dataset:
        return kto.judged_dataset(prepared.train, prepared.train_conversations)


class RewardTrainer(Accepting, trl.RewardTrainer):
    """TRL's RewardTrainer. A model given by name gets one score as its output."""

    METHOD: ClassVar = "reward"
    CONFIG: ClassVar = configs.RewardConfig

    def _wanted(self, args: Any) -> Wanted:
        return Wanted(kind="preference", max_length=args.max_length, truncation="drop")  # as TRL does

    def _rows_of(self, prepared: PreparedData) -> Dataset:
        return scored_dataset(prepared.train)

    def _guard(self, dataset: Any, supervised: int) -> None:
        """Prompt and answer are scored together, so nothing of them is labelled."""


class _Online(Accepting):
    """The model answers prompts: TRL renders those, which has nothing to do with labels."""

    def _prepare(self, given: dict[str, Any]) -> None:
        self._custom = False
        for name in ("train_dataset", "eval_dataset"):
            given[name] = self._fed(given.get(name), name, None, None)

    def _fed(self, dataset: Any, name: str, tokenizer: Any, args: Any) -> Any:
        if isinstance(dataset, Mapping):
            return {key: self._fed(part, f"{name}[{key!r}]", tokenizer, args) for key, part in dataset.items()}
        return with_prompts(dataset, name)


class GRPOTrainer(_Online, trl.GRPOTrainer):
    """TRL's GRPOTrainer. ShareGPT and alpaca rows get a column `prompt`; the rewards see all other columns too."""

    METHOD: ClassVar = "grpo"
    LOADS_MORE: ClassVar = True
    CONFIG: ClassVar = configs.GRPOConfig


class RLOOTrainer(_Online, trl.RLOOTrainer):
    """TRL's RLOOTrainer. ShareGPT and alpaca rows get a column `prompt`; the rewards see all other columns too."""

    METHOD: ClassVar = "rloo"
    LOADS_MORE: ClassVar = True
    CONFIG: ClassVar = configs.RLOOConfig


class _LabelledPairs(Accepting):
    def _rows_of(self, prepared: PreparedData) -> Dataset:
        return labelled_pairs_dataset(prepared.train)


class ORPOTrainer(_LabelledPairs, fed_with_labels(_ORPOTrainer)):
    """TRL's ORPOTrainer."""

    METHOD: ClassVar = "orpo"
    CONFIG: ClassVar = configs.ORPOConfig


class CPOTrainer(_LabelledPairs, fed_with_labels(_CPOTrainer)):
    """TRL's CPOTrainer."""

    METHOD: ClassVar = "cpo"
    CONFIG: ClassVar = configs.CPOConfig
