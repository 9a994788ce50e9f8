"""Reward models: which folders hold one, and what becomes of a language model's head and config in its merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.model_files import read_config
from fastft.run_files import read_adapter_config

if TYPE_CHECKING:
    from fastft.exporters.source import Source

SCORE = "score.weight"
SCORING_FORMATS = ("merged_16bit", "adapter", "hub")
_LANGUAGE, _SCORING = "ForCausalLM", "ForSequenceClassification"


def holds_classifier(folder: Path) -> bool:
    """Whether the adapter or model in `folder` gives a score. Raises ModelError if its config can't be read."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return any(str(name).endswith(_SCORING) for name in read_config(folder).get("architectures") or ())
    return read_adapter_config(folder).get("task_type") == "SEQ_CLS"


def scoring_config(config: Mapping[str, Any], adapter: Path) -> dict[str, Any]:
    """The base's config as that of a classifier with one score, with the padding token that was trained with.

    By that token transformers tells a sequence's last one, where the score is read.
    """
    from fastft.data.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(adapter)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    named = [str(name).replace(_LANGUAGE, _SCORING) for name in config.get("architectures") or ()]
    if not any(name.endswith(_SCORING) for name in named):
        raise ExportError(f"The base model's architecture {named[:1]} has no classifier of its own in transformers")
    one = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": pad}
    return {**config, "architectures": named, **one}


def refuse_text_formats(source: Source, formats: Sequence[str]) -> None:
    """Raises ExportError if a reward model is asked for in a format of models that write text."""
    wrong = [name for name in formats if name not in SCORING_FORMATS]
    if wrong and source.classifies:
        raise ExportError(
            f"{source.folder} is a reward model, and {wrong[0]} is for models that write text",
            hint=f"A reward model is exported as {' or '.join(SCORING_FORMATS[:2])}.",
        )
