"""The converter as used here: types, special tokens and template of the files it makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ExportError
from fastft.exporters.ggml import GGMLType, GGUFHeader
from fastft.exporters.gguf import _refusals, convert
from fastft.exporters.merged import copy_model
from fastft.llamacpp import GGUFModel
from tests.exporters.models import random_model, save_model

TEXT = "I'll pay 1,234.50 € – naïve? 你好！\n\n  👍🏽 don't"
TALK = [
    {"role": "user", "content": "Hi 🙂"},
    {"role": "assistant", "content": "1234"},
    {"role": "user", "content": "ok"},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, qwen_tokenizer: Path, llama_tokenizer: Path) -> Iterator[Path]:
    """Random models with real tokenizers, narrow, because the vocabularies are large."""
    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": True}
    for kind, size, tokenizer in (("Qwen2", 151_936, qwen_tokenizer), ("Llama", 128_256, llama_tokenizer)):
        model = save_model(random_model(kind, vocab_size=size, **sizes), folder / f"{kind}-base", tokenizer)
        copy_model(model, folder / kind, "bfloat16")
        convert(folder / kind, folder / f"{kind}.gguf", name="a name")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
def test_prompts_have_the_ids_they_were_trained_with(folders: Path, kind: str) -> None:
    tokenizer = ChatTokenizer.load(folders / kind)
    prompt = tokenizer.prompt_ids(TALK)
    text = tokenizer.render(TALK, add_generation_prompt=True)
    with GGUFModel(folders / f"{kind}.gguf") as model:
        assert model.tokenize(TEXT) == tokenizer.encode(TEXT)
        assert model.tokenize(text) == prompt
        assert model.is_stop(tokenizer.end_of_turn_id)
        assert model.eos_id == tokenizer.eos_token_id
        # llama.cpp puts BOS first exactly where the template does
        assert model.adds_bos == (prompt[0] == tokenizer.bos_token_id)
        assert model.chat_template == tokenizer.chat_template
        assert model.metadata["general.name"] == "a name"


@pytest.mark.slow
def test_the_type_is_that_of_the_merged_weights(tiny: Path, tmp_path: Path) -> None:
    for dtype, kind, stored in (("bfloat16", "bf16", GGMLType.BF16), ("float16", "f16", GGMLType.F16)):
        copy_model(tiny, tmp_path / dtype, dtype)
        assert convert(tmp_path / dtype, tmp_path / "out.gguf", name="x") == kind
        with GGUFHeader(tmp_path / "out.gguf") as header:
            types = {tensor.name: tensor.type for tensor in header.tensors()}
        assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == stored
        assert types["blk.0.attn_norm.weight"] == GGMLType.F32


@pytest.mark.slow
def test_a_turn_may_end_with_another_token_than_eos(tiny: Path, tmp_path: Path) -> None:
    """A base model taught to chat keeps its end-of-text token; both must stop llama.cpp."""
    copy_model(tiny, tmp_path / "model", "bfloat16")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))
    convert(tmp_path / "model", tmp_path / "out.gguf", name="x")
    tokenizer = ChatTokenizer.load(tmp_path / "model")
    assert tokenizer.end_of_turn == "<|im_end|>"
    with GGUFModel(tmp_path / "out.gguf") as model:
        assert model.eos_id == tokenizer.eos_token_id == tokenizer.token_id("<|endoftext|>")
        assert model.is_stop(tokenizer.end_of_turn_id)
        assert model.eos_id is not None
        assert model.is_stop(model.eos_id)


@pytest.mark.slow
def test_what_the_converter_cannot_do_is_told(tiny: Path, tmp_path: Path) -> None:
    copy_model(tiny, tmp_path / "model", "bfloat16")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["NovelForCausalLM"]}))
    with pytest.raises(ExportError, match=r"can't convert this model: .*NovelForCausalLM"):
        convert(tmp_path / "model", tmp_path / "out.gguf", name="x")


def test_a_refusal_without_words_is_told_by_its_kind() -> None:
    with pytest.raises(ExportError, match="can't convert this model: FileNotFoundError"), _refusals():
        raise FileNotFoundError
