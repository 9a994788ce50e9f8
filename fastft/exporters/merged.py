"""The merged model: base + LoRA in 16 bits, a folder that transformers, vLLM and llama.cpp's converter load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.base_model import Weights, open_weights
from fastft.exporters.classifier import SCORE, holds_classifier, scoring_config
from fastft.exporters.lora import Adapter, Change
from fastft.exporters.weights import FLOATS, TensorSpec, row_blocks, torch_dtype, write_sharded
from fastft.model_files import read_config
from fastft.reading import read_json
from fastft.run_files import read_generation

if TYPE_CHECKING:
    import torch

    from fastft.exporters.workbench import Target, Workbench

_HEAD = "lm_head.weight"
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja",
)  # fmt: skip
_AS_STORED = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that add nothing to tokenizer.json
_DROPPED_FROM_CONFIG = ("quantization_config", "torch_dtype", "_name_or_path")
OnTensor = Callable[[int, int], None]


def export(bench: Workbench, target: Target, out: Path) -> dict[str, Any]:  # noqa: ARG001
    """Merge into `out`, or copy a fully fine-tuned model there; returns how it was made, for export.json."""
    return bench.merge_into(out)


def merge_adapter(base: Path, adapter: Path, out: Path, dtype: str, *, on_tensor: OnTensor | None = None) -> None:
    """Write the model `base` with the PEFT adapter merged into the folder `out`, in `dtype` (bfloat16 or float16).

    Each weight is base + scaling·B·A, computed in fp32 and cast once. Tokenizer and template are the adapter's, they
    are what was trained with. Holds one tensor at a time. Raises ExportError if a tensor of the adapter has no place
    in the base, or a value doesn't fit `dtype`.
    """
    _Merge(base, Adapter(adapter), dtype, on_tensor).write(out, tokenizer=adapter)


def copy_model(
    model: Path, out: Path, dtype: str, *, tokenizer: Path | None = None, on_tensor: OnTensor | None = None
) -> None:
    """Write a whole model (of a full fine-tune) into the folder `out` in `dtype`, with `tokenizer` or its own."""
    _Merge(model, None, dtype, on_tensor).write(out, tokenizer=tokenizer or model)


class _Merge:
    def __init__(self, base: Path, adapter: Adapter | None, dtype: str, on_tensor: OnTensor | None) -> None:
        self.base = base
        self.adapter = adapter
        self.dtype = dtype
        self.on_tensor = on_tensor or (lambda *_: None)
        self.done = 0
        self.weights: Weights = open_weights(base)
        self.config: dict[str, Any] = read_config(base)
        self.changes: dict[str, Change] = dict(adapter.changes) if adapter else {}
        # tensor to write: tensor of the base it starts as, None for one the base hasn't
        self.source: dict[str, str | None] = {name: name for name in self.weights.specs}
        self._refuse_unreadable()
        self._settle_head()
        self._settle_tied_embeddings()
        self._refuse_homeless()

    def write(self, out: Path, *, tokenizer: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        specs = {name: self._spec(name) for name in self.source}
        write_sharded(out, specs, lambda name: self._blocks(name, specs[name]))
        _write_json(out / "config.json", self._final_config(specs))
        copy_tokenizer(tokenizer, self.base, out)
        write_generation_config(self.base, out)

    def _settle_head(self) -> None:
        """A reward model has a head for scores, which only the adapter knows, in place of its language head."""
        if self.adapter is not None and holds_classifier(self.adapter.folder):
            self.config = scoring_config(self.config, self.adapter.folder)
            self.source.pop(_HEAD, None)
            self.source[SCORE] = None

    def _spec(self, name: str) -> TensorSpec:
        origin = self.source[name]
        if origin is None:
            assert self.adapter is not None  # only an adapter brings tensors of its own
            return TensorSpec(self.adapter.shape_of(self.changes[name], ()), _DTYPES[self.dtype])
        stored = self.weights.specs[origin]
        if stored.dtype not in FLOATS:
            return stored
        change = self.changes.get(name)
        shape = self.adapter.shape_of(change, stored.shape) if self.adapter and change else stored.shape
        return TensorSpec(shape, _DTYPES[self.dtype])

    def _blocks(self, name: str, spec: TensorSpec) -> Iterator[torch.Tensor]:
        """The merged tensor in blocks of rows, in the type of `spec`."""
        change = self.changes.get(name)
        for rows in self.adapter.rows_of(change, spec.shape) if self.adapter and change else row_blocks(spec.shape):
            yield _cast(name, self._rows(name, rows if spec.shape else None), torch_dtype(spec.dtype))
        self.done += 1
        self.on_tensor(self.done, len(self.source))

    def _rows(self, name: str, rows: slice | None) -> torch.Tensor:
        change, origin = self.changes.get(name), self.source[name]
        if self.adapter and change and rows is not None:
            return self.adapter.apply(change, rows, lambda: self.weights.read(str(origin), rows))
        return self.weights.read(str(origin), rows)

    def _settle_tied_embeddings(self) -> None:
        """Where output and input embeddings share a tensor, give the output its own if the adapter parts them.

        PEFT trains each side as a copy of its own, the other keeps the base's values: so must the merged model.
        """
        embedding = next((name for name in self.source if name.endswith("embed_tokens.weight")), None)
        if self.adapter is None or embedding is None or not self._tied():
            return
        head, body = self.changes.get(_HEAD), self.changes.get(embedding)
        if head is None and body is None:
            return
        if head and body and self.adapter.same_replacement(head, body):
            del self.changes[_HEAD]
            self.source.pop(_HEAD, None)
            return
        if self.adapter.config.get("ensure_weight_tying"):
            raise ExportError("An adapter with ensure_weight_tying on tied embeddings can't be merged here")
        self.source[_HEAD] = embedding
        self._set_tied(False)

    def _tied(self) -> bool:
        """As config.json says; where it leaves that to the architecture's default, as the checkpoint shows."""
        part = self.config.get("text_config") or {}
        said = self.config.get("tie_word_embeddings", part.get("tie_word_embeddings"))
        return _HEAD not in self.source if said is None else bool(said)

    def _set_tied(self, tied: bool) -> None:
        self.config["tie_word_embeddings"] = tied
        if self.config.get("text_config"):
            self.config["text_config"]["tie_word_embeddings"] = tied

    def _refuse_unreadable(self) -> None:
        scaled = [name for name, spec in self.weights.specs.items() if spec.dtype.startswith("F8")]
        if scaled:
            raise ExportError(
                f"The model {self.base} is stored in 8-bit floats ({scaled[0]} and {len(scaled) - 1} more), "
                "which mean nothing without their scales",
                hint="Use the 16-bit model it was made from.",
            )

    def _refuse_homeless(self) -> None:
        homeless = [key for name, change in self.changes.items() if name not in self.source for key in change.keys]
        if SCORE in self.source and self.source[SCORE] is None and SCORE not in self.changes:
            raise ExportError("The adapter is a reward model's and holds no score.weight", hint="Train again.")
        if homeless:
            raise ExportError(
                f"{len(homeless)} tensors of the adapter have no place in the base model {self.base}, "
                f"the first is {homeless[0]}: the merge would leave them out",
                hint="The adapter was trained on another model, or on layers its checkpoint names differently.",
            )

    def _final_config(self, specs: dict[str, TensorSpec]) -> dict[str, Any]:
        config = {key: value for key, value in self.config.items() if key not in _DROPPED_FROM_CONFIG}
        config["dtype"] = self.dtype
        if config.get("text_config"):
            config["text_config"] = {**config["text_config"], "dtype": self.dtype}
        embedding = next((spec for name, spec in specs.items() if name.endswith("embed_tokens.weight")), None)
        if embedding is not None:
            owner = config["text_config"] if "vocab_size" in (config.get("text_config") or {}) else config
            owner["vocab_size"] = embedding.shape[0]
        return config


def _cast(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if not value.dtype.is_floating_point:
        return value
    cast = value.to(dtype)
    if bool(torch.isfinite(cast).all()):
        return cast
    if bool(torch.isfinite(value).all()):
        raise ExportError(
            f"{name} holds {value.abs().max().item():.6g}, too large for {str(dtype).removeprefix('torch.')}",
            hint="Export with dtype bfloat16.",
        )
    raise ExportError(f"{name} holds infinite or NaN values: the training diverged")


def copy_tokenizer(tokenizer: Path, base: Path, out: Path) -> None:
    """Tokenizer and chat template of the folder `tokenizer` into `out`; of a bare adapter, the base's.

    A template in chat_template.jinja is the only one written: transformers and llama.cpp's converter disagree on
    which of two wins. Raises ModelError for a tokenizer that can't be read, ExportError if transformers can't read it.
    """
    from fastft.data.tokenizer import ChatTokenizer

    folder = tokenizer if (tokenizer / "tokenizer.json").is_file() else base
    ChatTokenizer.load(folder)  # its errors name the file to mend, not the copy
    for name in _TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    # save_pretrained leaves out the SentencePiece model, which the converter needs
    if not (out / "tokenizer.model").is_file() and (base / "tokenizer.model").is_file():
        shutil.copyfile(base / "tokenizer.model", out / "tokenizer.model")
    config = out / "tokenizer_config.json"
    if (out / "chat_template.jinja").is_file() and config.is_file():
        values = read_json(config, ExportError)
        if values.pop("chat_template", None) is not None:
            _write_json(config, values)
    _keep_tokenizer(out, folder)


def _keep_tokenizer(folder: Path, source: Path) -> None:
    """Have transformers take tokenizer.json as it is, where the class that the config names would make another of it.

    transformers 5 builds the pre-tokenizer of LlamaTokenizer, GemmaTokenizer and others anew, from a few settings.
    `folder` is a copy of `source`, and holds config.json, by which transformers chooses the class too.
    """
    path, stored = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not path.is_file() or not stored.is_file():
        return
    values = read_json(path, ExportError)
    if values.get("tokenizer_class") in (None, *_AS_STORED) or _loads_as_stored(folder, source):
        return
    _write_json(path, {**values, "tokenizer_class": _AS_STORED[0]})


def _loads_as_stored(folder: Path, source: Path) -> bool:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # classes of all kinds, and files of any content
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"transformers can't load the tokenizer in {source}: {reason}") from error
    if not getattr(loaded, "is_fast", False):
        return True  # a class of Python's own, which has its own files
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    mine, theirs = (json.loads(tokenizer.to_str()) for tokenizer in (stored, loaded.backend_tokenizer))
    return all(mine.get(part) == theirs.get(part) for part in ("normalizer", "pre_tokenizer"))


def write_generation_config(base: Path, out: Path) -> None:
    """The base's generation config, with the template's end-of-turn token among the tokens that end generation.

    A base model that was taught to chat has only its end-of-text token there, and would never stop.
    """
    from fastft.data.tokenizer import ChatTokenizer

    path = base / "generation_config.json"
    values = read_generation(path) if path.is_file() else {}
    tokenizer = ChatTokenizer.load(out)
    known = values.get("eos_token_id", tokenizer.eos_token_id)
    ids = known if isinstance(known, list) else [] if known is None else [known]
    if tokenizer.end_of_turn_id not in ids:
        ids = [tokenizer.end_of_turn_id, *ids]
    values["eos_token_id"] = ids if len(ids) > 1 else ids[0]
    _write_json(out / "generation_config.json", values)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
