"""SentencePiece-like tokenizers: llama.cpp must give the ids that tokenizer.json gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from fastft.errors import ExportError
from fastft.exporters.gguf import convert
from fastft.exporters.merged import copy_tokenizer
from fastft.exporters.pieces import adds_space, model_name, pieces, strips_as_phi3
from fastft.llamacpp import GGUFModel
from tests.exporters.models import random_model
from tests.exporters.test_pretokenizer import TEXTS
from tests.exporters.vocabularies import Specials, sentencepiece

CONTROL = ("<|user|>", "<|end|>", "<|endoftext|>")
SPECIALS = {
    "llama": Specials("</s>", bos="<s>", unk="<unk>", more=CONTROL),
    "mistral": Specials("</s>", bos="<s>", unk="<unk>", more=CONTROL),
    "gemma": Specials("<eos>", bos="<bos>", pad="<pad>", unk="<unk>", more=CONTROL),
}
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


def _model(folder: Path, style: str, kind: str = "Llama", *, model: bool = True, name: str = "LlamaTokenizer") -> Path:
    """A folder that the converter takes, with a tokenizer of this style."""
    sentencepiece(
        folder, [*TEXTS, *TEXTS, "user said"], SPECIALS[style], style=style, tokenizer_class=name, model=model
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    options: dict[str, Any] = {"pad_token_id": 0} if kind == "Phi3" else {}
    random_model(kind, hidden_size=64, vocab_size=704, **options).bfloat16().save_pretrained(folder)
    return folder


def _ids(folder: Path, out: Path, name: str = "m") -> list[tuple[str, list[int], list[int]]]:
    """(text, ids of tokenizer.json, ids of llama.cpp) for texts between control tokens, as templates write them."""
    convert(folder, out, name=name)
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = "<bos>" if stored.token_to_id("<bos>") is not None else "<s>"
    texts = [f"{bos}<|user|>{inner}{text}<|end|>\n<|user|>" for text in TEXTS for inner in ("", " ", "\n")]
    with GGUFModel(out, n_ctx=512) as model:
        return [(text, stored.encode(text, add_special_tokens=False).ids, model.tokenize(text)) for text in texts]


@pytest.mark.parametrize("model", [True, False], ids=["with tokenizer.model", "tokenizer.json alone"])
@pytest.mark.parametrize(
    ("style", "kind"), [("llama", "Llama"), ("llama", "Phi3"), ("mistral", "Llama"), ("gemma", "Gemma2")]
)
def test_llama_cpp_gives_the_ids_of_tokenizer_json(style: str, kind: str, model: bool, tmp_path: Path) -> None:
    folder = _model(tmp_path / "model", style, kind, model=model)
    assert [row for row in _ids(folder, tmp_path / "m.gguf") if row[1] != row[2]] == []


def test_tokens_that_only_tokenizer_json_has(tmp_path: Path) -> None:
    """ChatML's, added behind the vocabulary: tokenizer.model does not know them, and no other file lists them."""
    folder = _model(tmp_path / "model", "llama")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "m.gguf", name="m")
    with GGUFModel(tmp_path / "m.gguf", n_ctx=64) as model:
        assert model.tokenize("<|im_start|>user") == tokenizer.encode("<|im_start|>user", add_special_tokens=False).ids


def test_white_space_after_control_tokens_goes_where_phi3_drops_it(tmp_path: Path) -> None:
    folder = _model(tmp_path / "model", "llama", "Phi3")
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert strips_as_phi3(content)
    assert [row for row in _ids(folder, tmp_path / "m.gguf", "my-run") if row[1] != row[2]] == []


def test_a_run_called_phi3_keeps_the_white_space_of_others(tmp_path: Path) -> None:
    folder = _model(tmp_path / "model", "llama")
    assert [row for row in _ids(folder, tmp_path / "m.gguf", "my-Phi-3-bot") if row[1] != row[2]] == []


@pytest.mark.parametrize(
    ("name", "expected"), [("run", "run"), ("Phi-3-mini", "Phi 3-mini"), ("my_phi3", "my_phi 3"), ("phi-4", "phi-4")]
)
def test_names_that_llama_cpp_takes_for_phi3(name: str, expected: str) -> None:
    assert model_name(name, None) == expected


def test_merges_that_no_scores_stand_for_are_refused() -> None:
    """llama.cpp merges by the token that comes out, so it would find `a` + `bc` too."""
    vocab = {text: index for index, text in enumerate(("a", "b", "c", "ab", "bc", "abc"))}
    content = {"model": {"type": "BPE", "vocab": vocab, "merges": [["b", "c"], ["a", "b"], ["ab", "c"]]}}
    with pytest.raises(ExportError, match="would merge 'a' and 'bc', which it does not"):
        pieces(content)
    content["model"]["merges"].append(["a", "bc"])
    assert [piece.score for piece in pieces(content)[3:]] == [-1.0, -0.0, -2.0]


@pytest.mark.parametrize(
    ("part", "step", "reason"),
    [
        ("normalizer", {"type": "NFKC"}, "does not do its normalisation"),
        ("normalizer", {"type": "Lowercase"}, "does not do its normalisation"),
        ("pre_tokenizer", {"type": "Whitespace"}, "has no pre-tokenizer step"),
    ],
)
def test_steps_that_llama_cpp_lacks_are_refused(part: str, step: dict[str, Any], reason: str) -> None:
    content = {"model": {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True}, part: step}
    with pytest.raises(ExportError, match=reason):
        adds_space(content)


def test_the_merged_tokenizer_loads_as_trained(tmp_path: Path) -> None:
    """transformers 5 builds LlamaTokenizer's rule for spaces anew, which is another than tokenizer.json's here."""
    from transformers import AutoTokenizer

    folder, out = _model(tmp_path / "model", "llama"), tmp_path / "out"
    out.mkdir()
    text = "<s><|user|>user said<|end|>"
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"] != expected
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    copy_tokenizer(folder, folder, out)
    assert AutoTokenizer.from_pretrained(out)(text, add_special_tokens=False)["input_ids"] == expected
