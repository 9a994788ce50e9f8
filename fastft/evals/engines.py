"""Models that are scored and asked, one in memory at a time, in batches that its memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from fastft.data.conversation import Example
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.evals.columns import Column
from fastft.evals.scoring import Score, batches, score_of_rows, scores, whole_or_halved
from fastft.host_memory import free_memory
from fastft.inference import Generation, TextModel
from fastft.llamacpp import GGUFModel
from fastft.model_loading import DtypeName, with_adapter

if TYPE_CHECKING:
    import numpy as np

_LOGITS_SHARE, _CACHE_SHARE = 0.25, 0.5  # of the free memory, for one batch
_TOKENS = {"cuda": (256, 32768), "cpu": (256, 4096)}  # least and most a batch: more gain nothing
_PROMPTS = {"cuda": 64, "cpu": 32}
_USUAL_LENGTH = 1024  # tokens of a standard task's prompt, at most
_COMPARED = 32  # rows whose ids are compared with llama.cpp's
_WORD = 4  # bytes of a float32

Done = Callable[[int], None]  # is told how many rows are done since it was last told


class Engine(Protocol):
    """A model in memory."""

    @property
    def dtype(self) -> str: ...

    def scores(self, examples: Sequence[Example], done: Done) -> dict[int, Score]:
        """Index -> score of each example."""
        ...

    def answers(self, prompts: Sequence[list[int]], limit: int, done: Done) -> list[Generation]:
        """Greedy answers of at most `limit` tokens, in the order of the prompts."""
        ...

    def close(self) -> None: ...


class Loader:
    """Opens the columns' models one after the other; a base in memory takes the adapter of the next column."""

    def __init__(self, dtype: DtypeName | None) -> None:
        self._dtype: DtypeName | None = dtype
        self._open: Engine | None = None
        self._column: Column | None = None

    def open(self, column: Column, tokenizer: ChatTokenizer, n_ctx: int) -> Engine:
        """The column's model. The one before is closed, or becomes this. `n_ctx` is the longest sequence asked for."""
        before, self._column = self._column, column
        if before is not None and before.adapter is None and before.folder == column.folder and column.adapter:
            assert isinstance(self._open, TransformersEngine)
            model = self._open.model
            model.model = with_adapter(model.model, column.adapter).to(model.model.device).eval()
            self._open = TransformersEngine(model, tokenizer)
        else:
            self.close()
            self._open = self._load(column, tokenizer, n_ctx)
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _load(self, column: Column, tokenizer: ChatTokenizer, n_ctx: int) -> Engine:
        if column.gguf is not None:
            return LlamaEngine(GGUFModel(column.gguf, n_ctx=n_ctx))
        assert column.folder is not None
        model = TextModel.load(column.folder, column.adapter, dtype=self._dtype)
        return TransformersEngine(model, tokenizer)


class TransformersEngine:
    """A TextModel. An answer ends where the model's own generation config or the template says."""

    def __init__(self, model: TextModel, tokenizer: ChatTokenizer) -> None:
        self.model = model
        self._stops = sorted({*model.stop_ids, tokenizer.end_of_turn_id, tokenizer.eos_token_id} - {None})

    @property
    def dtype(self) -> str:
        return self.model.dtype

    def scores(self, examples: Sequence[Example], done: Done) -> dict[int, Score]:
        found: dict[int, Score] = {}
        with self.model.threads():
            for index, score in scores(self.model.model, examples, self.tokens_a_batch()):
                found[index] = score
                done(1)
        return found

    def answers(self, prompts: Sequence[list[int]], limit: int, done: Done) -> list[Generation]:
        def work(part: Sequence[int]) -> list[Generation]:
            return self.model.generate_batch([prompts[index] for index in part], limit, self._stops)

        lengths = [len(ids) + limit for ids in prompts]
        found: dict[int, Generation] = {}
        for batch in batches(lengths, self.cached_tokens(), _PROMPTS[self._device]):
            found |= dict(whole_or_halved(batch, work))
            done(len(batch))
        return [found[index] for index in range(len(prompts))]

    def close(self) -> None:
        self.model.close()

    @property
    def _device(self) -> str:
        return "cuda" if self.model.model.device.type == "cuda" else "cpu"

    def tokens_a_batch(self) -> int:
        """So many that the logits of all of them take a quarter of the memory that is free."""
        least, most = _TOKENS[self._device]
        fitting = int(_LOGITS_SHARE * _free_on(self._device)) // (_WORD * self.model.vocabulary)
        return max(least, min(most, fitting))

    def prompts_a_batch(self) -> int:
        """So many that the logits of whole sequences fit, each as long as the model reads."""
        room = getattr(self.model.model.config.get_text_config(), "max_position_embeddings", None) or _USUAL_LENGTH
        return max(1, min(_PROMPTS[self._device], self.tokens_a_batch() // min(room, _USUAL_LENGTH)))

    def cached_tokens(self) -> int:
        """So many that their keys and values take half of the memory that is free."""
        config = self.model.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        a_token = 2 * config.num_hidden_layers * heads * width * self.model.model.dtype.itemsize
        return max(1, int(_CACHE_SHARE * _free_on(self._device)) // a_token)


class LlamaEngine:
    """A GGUF file in llama.cpp, on the same ids."""

    def __init__(self, model: GGUFModel) -> None:
        self._model = model

    @property
    def dtype(self) -> str:
        return self._model.path.stem.rpartition("-")[2] or "gguf"

    def scores(self, examples: Sequence[Example], done: Done) -> dict[int, Score]:
        found: dict[int, Score] = {}
        for index, example in enumerate(examples):
            found[index] = score_of_rows(self._rows(example.input_ids), example.labels)
            done(1)
        return found

    def _rows(self, ids: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for rows in self._model.logits(ids):
            yield start, rows
            start += len(rows)

    def answers(self, prompts: Sequence[list[int]], limit: int, done: Done) -> list[Generation]:
        given = []
        for ids in prompts:
            given.append(self._model.generate(ids, limit))
            done(1)
        return given

    def close(self) -> None:
        self._model.close()


def require_same_ids(column: Column, tokenizer: ChatTokenizer, examples: Sequence[Example]) -> str:
    """A remark where llama.cpp would cut some texts into other tokens than `tokenizer`, or "".

    Raises ModelError if the tokenizer is of another model: ids the file doesn't have, or most texts cut otherwise.
    """
    assert column.gguf is not None
    sample = [example.input_ids for example in examples[:_COMPARED]]
    with GGUFModel(column.gguf) as model:
        highest = max(max(example.input_ids) for example in examples)
        texts = [tokenizer.decode(ids) for ids in sample]
        other = sum(model.tokenize(text) != tokenizer.encode(text) for text in texts)
        if highest >= model.n_vocab or 2 * other > len(sample):
            raise ModelError(
                f"The tokenizer in {tokenizer.folder} is not that of {column.gguf}: "
                + (f"{other} of {len(sample)} rows give other ids" if other else f"the file lacks the id {highest}"),
                hint="Name the folder of the model that the file was made of: --tokenizer FOLDER.",
            )
    if not other:
        return ""
    return f"{column.name}: llama.cpp itself would cut {other} of {len(sample)} rows into other tokens"


def _free_on(device: str) -> int:
    """Bytes free for use now on the GPU or in the host's memory."""
    import torch

    if device != "cuda":
        return free_memory()
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + cached
