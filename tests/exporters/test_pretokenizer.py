from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import ExportError
from fastft.exporters.converter import import_llama_cpp
from fastft.exporters.pretokenizer import _RULES, is_byte_level_bpe, pretokenizer_name, read_tokenizer_json
from fastft.llamacpp import GGUFModel

# What the rules differ in: contractions in both cases, digits in groups, white space, case changes, marks, scripts
TEXTS = [
    "I'm sure WE'LL see they'Re 've DON'T",
    "3 33 333 3333 33333 3.14 1,000,000 ½ ² ٣٤٥",
    "  two   three    \t\n\n \r\n x  ",
    "camelCase HTTPServer naïve Élan ÉCOLE ﬁn straße",
    "a/b\\c //// ...!!!??? (x)[y]{z} --->\n\n//\n",
    "e\u0301 नमस्ते สวัสดี",
    "你好，世界！ こんにちは 안녕 привет",
    "👍🏽 👨\u200d👩\u200d👧 \u200d\ufeff x",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
    " ",
    "\n",
    "  \n  \n",
]


def make_tokenizer(rule: Any) -> dict[str, Any]:
    """tokenizer.json of a small byte-level BPE trained on TEXTS, cutting text by `rule`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    def step(kind: str, *argument: str) -> Any:
        if kind == "split":
            return pre_tokenizers.Split(Regex(argument[0]), "isolated")
        if kind == "digits":
            return pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(argument))

    tokenizer = Tokenizer(models.BPE(ignore_merges=rule.ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([step(*parts) for parts in rule.steps])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, min_frequency=1, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return json.loads(tokenizer.to_str())


def write_vocabulary(path: Path, tokenizer: dict[str, Any], name: str) -> None:
    """A GGUF file with this vocabulary under the pre-tokenizer `name`, and no weights."""
    gguf = import_llama_cpp("gguf")
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[0] if number in special else kinds[1] for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", _RULES)
def test_llama_cpp_cuts_text_as_the_rule_says(name: str, tmp_path: Path) -> None:
    """Ids of llama.cpp under the name we chose, against those of the tokenizers library."""
    from tokenizers import Tokenizer

    content = make_tokenizer(_RULES[name])
    assert is_byte_level_bpe(content)
    assert pretokenizer_name(content) == name
    write_vocabulary(tmp_path / "vocabulary.gguf", content, name)
    reference = Tokenizer.from_str(json.dumps(content))
    with GGUFModel(tmp_path / "vocabulary.gguf") as model:
        for text in TEXTS:
            assert model.tokenize(text) == reference.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.mark.parametrize(
    ("fixture", "name"), [("qwen_tokenizer", "qwen2"), ("llama_tokenizer", "llama-bpe"), ("tiny", None)]
)
def test_real_tokenizers_are_matched(fixture: str, name: str | None, request: pytest.FixtureRequest) -> None:
    content = read_tokenizer_json(request.getfixturevalue(fixture))
    assert content is not None
    assert pretokenizer_name(content) == name or (name is None and pretokenizer_name(content) in _RULES)


def _change(path: str, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_change("model/ignore_merges", False), None),  # another name fits
        (_change("pre_tokenizer/pretokenizers/0/pattern", {"Regex": r"\s+"}), "none of llama.cpp's"),
        (_change("pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"), "no pre-tokenizer step"),
        (_change("pre_tokenizer/pretokenizers/1/add_prefix_space", True), "no pre-tokenizer step"),
        (_change("pre_tokenizer/pretokenizers/1/use_regex", True), "none of llama.cpp's"),
        (_change("normalizer", {"type": "NFC"}), "does not do its normalisation"),
        (_change("normalizer", {"type": "Lowercase"}), "does not do its normalisation"),
        (_change("model/end_of_word_suffix", "</w>"), "end_of_word_suffix '</w>'"),
        (_change("model/dropout", 0.1), "dropout 0.1"),
        (lambda content: content["model"]["vocab"].pop("Ā"), "1 of the 256 bytes have no token"),
    ],
)
def test_whatever_is_not_the_same_is_refused(change: Callable[[dict[str, Any]], Any], reason: str | None) -> None:
    content = copy.deepcopy(make_tokenizer(_RULES["llama-bpe"]))
    change(content)
    if reason is None:
        assert pretokenizer_name(content) == "smaug-bpe"
    else:
        with pytest.raises(ExportError, match=reason):
            pretokenizer_name(content)
