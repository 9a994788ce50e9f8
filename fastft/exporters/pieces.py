"""SentencePiece-like tokenizers (BPE with byte fallback), and what llama.cpp does otherwise than tokenizer.json says.

llama.cpp cuts such text by scores, not by merges; it puts a space before all text after a control token, or before
none; and it drops white space after control tokens for models that have "phi-3" in their name, and for no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastft.exporters.pretokenizer import flat, is_byte_level_bpe, pretokenizer_name, read_tokenizer_json, unknown

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# llama.cpp's rule for Phi-3 (src/llama-vocab.cpp): every control token but these
_KEEP_SPACE_AFTER = frozenset(("<unk>", "<s>", "<|endoftext|>"))
_NAMED = _KEEP_SPACE_AFTER | {"</s>"}  # without these such a file would not load
_PHI3 = re.compile(r"(phi)-?(3)", re.IGNORECASE)


class Piece(NamedTuple):
    """One token as a GGUF file stores it; `kind` is a name in gguf's TokenType."""

    text: str
    score: float
    kind: str


def is_piece_bpe(tokenizer: dict[str, Any]) -> bool:
    """Whether tokenizer.json's content is a BPE that spells unknown letters in bytes, as SentencePiece does."""
    model = tokenizer["model"]  # some byte-level ones have the flag too, where it means nothing
    return model["type"] == "BPE" and bool(model.get("byte_fallback")) and not is_byte_level_bpe(tokenizer)


def adds_space(tokenizer: dict[str, Any]) -> bool:
    """Whether llama.cpp has to put a space before text: at the start, and after each control token.

    Where tokenizer.json does it at the start of all text only (`prepend_scheme: first`), no: chat templates start with
    a control token. Raises ExportError for normalisations that llama.cpp does not have.
    """
    added = False
    for step in flat(tokenizer.get("normalizer"), "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                added = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case _:
                raise unknown(f"llama.cpp does not do its normalisation {step}")
    for step in flat(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}:
                _refuse_cut_spaces(step, tokenizer["model"]["vocab"])
                added = added or scheme == "always"
            # Gemma's: by then no space is left to cut at
            case {"type": "Split", "pattern": {"String": " "}}:
                pass
            case _:
                raise unknown(f"llama.cpp has no pre-tokenizer step {step}")
    return added


def _refuse_cut_spaces(step: dict[str, Any], vocab: dict[str, int]) -> None:
    inner = next((piece for piece in vocab if _SPACE in piece[1:]), None) if step.get("split", True) else None
    if inner is not None:
        raise unknown(f"it never makes {inner!r} of a text, as it cuts at spaces first, and llama.cpp would")


def strips_as_phi3(tokenizer: dict[str, Any]) -> bool:
    """Whether white space after control tokens is dropped, and just as llama.cpp does it for Phi-3."""
    tokens = tokenizer.get("added_tokens") or []
    named = {token["content"] for token in tokens}
    stripping = {token["content"] for token in tokens if token.get("rstrip")}
    return named >= _NAMED and stripping == named - _KEEP_SPACE_AFTER


def model_name(name: str, tokenizer: dict[str, Any] | None) -> str:
    """`name` for general.name: with "phi-3" in it where its rule for white space holds, and nowhere else.

    A Llama from a run called "phi-3-support" would lose its line breaks after control tokens, or not load at all.
    """
    if tokenizer is not None and strips_as_phi3(tokenizer):
        return name if _PHI3.search(name) else f"{name} (phi-3)"
    return _PHI3.sub(r"\1 \2", name)


def pieces(tokenizer: dict[str, Any]) -> list[Piece]:
    """All tokens by id, with scores that make llama.cpp merge in the order of the merges.

    Raises ExportError where no scores do: llama.cpp merges whatever two neighbours make a token together.
    """
    scores = _scores(tokenizer["model"])
    found = {index: _piece(text, scores, tokenizer["model"]) for text, index in tokenizer["model"]["vocab"].items()}
    found |= added_pieces(tokenizer)
    return [found.get(index, Piece(f"[PAD{index}]", -10000.0, "UNUSED")) for index in range(max(found) + 1)]


def added_pieces(tokenizer: dict[str, Any]) -> dict[int, Piece]:
    """The added tokens of tokenizer.json by id, typed as llama.cpp's converter types them."""
    unk = tokenizer["model"].get("unk_token")
    kinds = {True: "CONTROL", False: "USER_DEFINED"}
    return {
        token["id"]: Piece(token["content"], -1000.0, "UNKNOWN" if token["content"] == unk else kinds[token["special"]])
        for token in tokenizer.get("added_tokens") or []
    }


def _piece(text: str, scores: dict[str, float], model: dict[str, Any]) -> Piece:
    if _BYTE.fullmatch(text):
        return Piece(text, 0.0, "BYTE")
    kind = "UNKNOWN" if text == model.get("unk_token") else "NORMAL"
    return Piece(text, scores.get(text, -float(len(scores))), kind)


def _scores(model: dict[str, Any]) -> dict[str, float]:
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    scores: dict[str, float] = {}
    last = ""
    for first, second in pairs:
        whole = first + second
        if whole in scores and whole != last:
            raise unknown(f"{whole!r} is made by merges of different rank, and llama.cpp knows one score for it")
        scores.setdefault(whole, -float(len(scores)))
        last = whole
    known = set(pairs)
    stray = next((pair for text in scores for pair in _splits(text, model["vocab"]) if pair not in known), None)
    if stray is not None:
        raise unknown(f"llama.cpp would merge {stray[0]!r} and {stray[1]!r}, which it does not")
    return scores


def _splits(text: str, vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    pairs = ((text[:at], text[at:]) for at in range(1, len(text)))
    return (pair for pair in pairs if pair[0] in vocab and pair[1] in vocab)


def require_convertible_tokenizer(folder: Path) -> None:
    """Raises ExportError with the reason where llama.cpp can't do as the folder's tokenizer.json says."""
    tokenizer = read_tokenizer_json(folder)
    if tokenizer is None:
        return
    if not is_piece_bpe(tokenizer):
        pretokenizer_name(tokenizer)
        return
    adds_space(tokenizer)
    if not (folder / "tokenizer.model").is_file():  # which holds the scores
        pieces(tokenizer)
