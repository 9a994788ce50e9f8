"""A trained reward model in plain transformers: conversations in, scores out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.data.conversation import Conversation
from fastft.data.faults import RowFaultError, RowRefusedError
from fastft.data.formats import load_format
from fastft.data.render import Renderer
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, ModelError

if TYPE_CHECKING:
    import torch

    from fastft.run import Run

_TOKENS_A_BATCH = 4096


class RewardModel:
    """A model that scores the last answer of a conversation; a higher score is a better answer."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer, max_length: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._renderer = Renderer(tokenizer, max_length=max_length, train_on="last", truncation="drop")

    @classmethod
    def load(cls, run: Path | str, *, dtype: torch.dtype | None = None) -> RewardModel:
        """The reward model of a finished run: its adapter on its 16-bit base, or the model of a full fine-tune.

        Raises ModelError if that is no finished run of method reward, or its base or adapter was changed.
        """
        from fastft.exporters.source import Trained
        from fastft.run import Run

        opened = Run.open(run)
        manifest = opened.trained_manifest()
        if manifest.get("method") != "reward":
            raise ModelError(
                f"{opened.directory} was trained by method {manifest.get('method')}, so it gives no scores",
                hint="Name the directory of a run of method reward.",
            )
        source = Trained.of_run(opened).source
        adapter = source.folder if source.is_adapter else None
        model = load_scores(source.base().folder, adapter, dtype)
        return cls(model, ChatTokenizer.load(source.folder), _max_length(opened, manifest))

    @classmethod
    def of_folder(cls, folder: Path, *, max_length: int, dtype: torch.dtype | None = None) -> RewardModel:
        """An exported reward model."""
        return cls(load_scores(folder, None, dtype), ChatTokenizer.load(folder), max_length)

    def scores(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
        """A score for each list of messages, which ends with an answer.

        Raises DatasetError for one that can't be rendered as in training, or is longer than the model was trained for.
        """
        rows = [_conversation(messages, number) for number, messages in enumerate(conversations, start=1)]
        return self.score_ids([self.ids(row) for row in rows])

    def ids(self, conversation: Conversation) -> list[int]:
        """The tokens that are scored: the conversation up to the end of its last answer."""
        rendered = self._renderer.render(conversation)
        if not rendered.examples:
            drop = rendered.dropped[0]
            raise DatasetError(
                f"{conversation.place} can't be scored: {drop.reason}" + (f" ({drop.detail})" if drop.detail else ""),
                hint=f"The reward model was trained on up to {self.max_length:,} tokens, with its own chat template.",
            )
        return rendered.examples[-1].input_ids

    def score_ids(self, rows: Sequence[list[int]]) -> list[float]:
        """A score for each sequence of tokens."""
        found = [0.0] * len(rows)
        for batch in _batches(rows):
            for index, score in zip(batch, self._score([rows[i] for i in batch]), strict=True):
                found[index] = score
        return found

    def _score(self, rows: Sequence[list[int]]) -> list[float]:
        """The head is read at the last token that isn't padding, as transformers' classifiers do it."""
        import torch

        pad, device = int(self.model.config.get_text_config().pad_token_id), self.model.device
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with torch.no_grad():
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float().tolist()


def _conversation(messages: Any, number: int) -> Conversation:
    """Raises DatasetError for what is no list of messages."""
    place = f"conversation {number}"
    turns: list[Any] = list(messages) if isinstance(messages, Sequence) else [None]
    if isinstance(messages, str) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DatasetError(
            f"{place} is {type(messages).__name__}; expected a list of messages",
            hint='scores() takes a list of them: [[{"role": "user", "content": …}, {"role": "assistant", …}]].',
        )
    try:
        return load_format("messages").convert({"messages": [dict(turn) for turn in turns]}, place)
    except (RowFaultError, RowRefusedError) as error:
        raise DatasetError(
            f"{place} can't be scored: {error}", hint='Messages are {"role": …, "content": …}.'
        ) from error


def load_scores(base: Path, adapter: Path | None, dtype: torch.dtype | None = None) -> Any:
    """The classifier in `base`, or a reward adapter on the language model there; in float32 unless said otherwise.

    Raises ModelError if a file is broken, or a tensor has no place or no value.
    """
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    from fastft.model_loading import REBUILD, attention_options, only_weights, with_adapter

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of a head that is missing until the adapter brings it
    try:
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            base,
            num_labels=1,
            dtype=dtype or torch.float32,
            output_loading_info=True,
            **only_weights(base),
            **attention_options(base),
        )
    except Exception as error:
        raise ModelError(f"The model in {base} can't be loaded: {error}", hint=REBUILD) from error
    model, info = loaded
    missing = set(info["missing_keys"]) - ({"score.weight"} if adapter else set())
    if missing:
        raise ModelError(f"The model in {base} lacks {len(missing)} tensors, the first {min(missing)}", hint=REBUILD)
    if getattr(model, "is_quantized", False):
        model = model.dequantize().to(dtype or torch.float32)
    if adapter is not None:
        _settle_padding(model, adapter)
        model = with_adapter(model, adapter)
    return model.eval()


def _max_length(run: Run, manifest: Mapping[str, Any]) -> int:
    found = manifest.get("data", {}).get("max_length")
    if found is None:
        raise ModelError(f"{run.manifest_path} lacks data.max_length", hint="Put it back as training wrote it.")
    return int(found)


def _settle_padding(model: Any, adapter: Path) -> None:
    """The padding token that was trained with, by which the last token of a sequence is told."""
    tokenizer = ChatTokenizer.load(adapter)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    model.config.get_text_config().pad_token_id = pad


def _batches(rows: Sequence[list[int]]) -> list[list[int]]:
    """Indices of rows of similar lengths, so many that a batch holds a few thousand tokens with its padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if not batches or (len(batches[-1]) + 1) * len(rows[index]) > _TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(index)
    return batches
