"""Small tokenizers of every kind that chat models have, cut as the families cut text, made of a few sentences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "tokenizers"

_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
CL100K = rf"{_WORDS}|\p{{N}}{{1,3}}|{_TAIL}"  # Llama 3, OLMo 2, Falcon 3
QWEN = rf"{_WORDS}|\p{{N}}|{_TAIL}"


class Specials(NamedTuple):
    """Control tokens by what they are for; `more` are those the template writes besides."""

    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    more: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys(t for t in (self.unk, self.bos, self.eos, self.pad, *self.more) if t))


def byte_level(
    folder: Path,
    texts: Sequence[str],
    specials: Specials,
    *,
    split: str | None,
    digits: bool = False,
    ignore_merges: bool = False,
) -> None:
    """A byte-level BPE that cuts by the expression `split`; None is GPT-2's, `digits` gives each digit its own word."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, show_progress=False, special_tokens=specials.all,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, specials, "PreTrainedTokenizerFast")


def sentencepiece(
    folder: Path, texts: Sequence[str], specials: Specials, *, style: str, tokenizer_class: str, model: bool = True
) -> None:
    """A SentencePiece BPE with byte fallback, as tokenizer.json and (if `model`) tokenizer.model.

    `style` is where a text gets a space before it: "llama" before every piece of text, also after control tokens
    (Llama 2, Phi-3), "mistral" at the very beginning only (Mistral v0.3), "gemma" nowhere.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import generate_merges

    folder.mkdir(parents=True, exist_ok=True)
    pieces = _train_sentencepiece(folder, texts, specials, style)
    vocab = {piece: index for index, (piece, _) in enumerate(pieces)}
    scores = dict(pieces)
    merges = generate_merges(vocab, scores)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=specials.unk, fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    if style == "llama":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif style == "mistral":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps if style == "gemma" else [*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in specials.all])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, specials, tokenizer_class)
    if not model:
        (folder / "tokenizer.model").unlink()


def _train_sentencepiece(folder: Path, texts: Sequence[str], specials: Specials, style: str) -> list[tuple[str, float]]:
    import sentencepiece

    gemma = style == "gemma"
    names: dict[str, Any] = {"bos_piece": specials.bos, "eos_piece": specials.eos, "unk_piece": specials.unk}
    ids: dict[str, Any] = (
        {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3} if gemma else {"unk_id": 0, "bos_id": 1, "eos_id": 2}
    )
    symbols: dict[str, Any] = {"user_defined_symbols" if gemma else "control_symbols": list(specials.more)}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=520,
        byte_fallback=True, add_dummy_prefix=not gemma, remove_extra_whitespaces=False, split_digits=True,
        normalization_rule_name="identity", hard_vocab_limit=False, character_coverage=1.0, minloglevel=2,
        allow_whitespace_only_pieces=True, **ids, **names, **symbols,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [(processor.IdToPiece(i), processor.GetScore(i)) for i in range(processor.vocab_size())]


def real(folder: Path, name: str, specials: Specials, rename: dict[str, str] | None = None) -> None:
    """The real vocabulary `name` of the shared folder; `rename` gives reserved tokens the names a family has for them.

    Tokens of `specials` that it lacks are added to its end.
    """
    from tokenizers import AddedToken, Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    text = (SHARED / name / "tokenizer.json").read_text(encoding="utf-8")
    for old, new in (rename or {}).items():
        text = text.replace(f'"{old}"', f'"{new}"')
    tokenizer = Tokenizer.from_str(text)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in specials.all])
    tokenizer.save(str(folder / "tokenizer.json"))
    if rename is None and not specials.more:
        shutil.copyfile(SHARED / name / "tokenizer_config.json", folder / "tokenizer_config.json")
    else:
        write_config(folder, specials, "PreTrainedTokenizerFast")


def write_config(folder: Path, specials: Specials, tokenizer_class: str) -> None:
    """tokenizer_config.json with the tokens that tokenizer.json calls added, as save_pretrained writes it."""
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    values = {
        "tokenizer_class": tokenizer_class,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in stored},
        "bos_token": specials.bos, "eos_token": specials.eos, "pad_token": specials.pad, "unk_token": specials.unk,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    text = json.dumps({key: value for key, value in values.items() if value is not None}, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
