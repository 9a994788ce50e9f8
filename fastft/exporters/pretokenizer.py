"""How a byte-level BPE tokenizer cuts text into words, and llama.cpp's name for that rule.

llama.cpp's converter knows pre-tokenizers by a hash of the ids of a test text, so it fails for every new vocabulary.
The rule itself stands in tokenizer.json. It is compared here with the rules llama.cpp has; nothing is guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from fastft.errors import ExportError
from fastft.reading import read_json

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_TAIL}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MINICPM5 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}+|{_TAIL}"

_MOST_BYTES = 1 << 30  # of tokenizer.json; the largest known have 40 MB
_WHOLE, _GPT2 = ("bytes",), ("bytes", "gpt2")  # ByteLevel without and with GPT-2's own pattern
_NFC_IGNORED = ("qwen2", "qwen35")  # llama.cpp leaves out the NFC normalisation of these, knowingly


class _Rule(NamedTuple):
    steps: tuple[tuple[str, ...], ...]
    ignore_merges: bool


# llama.cpp's name and its rule (src/llama-vocab.cpp), in the form tokenizer.json gives it. Those of GPT-4o and Tekken
# are not here: llama.cpp's versions take every non-ASCII letter for upper and lower case at once, so ids differ.
_RULES: dict[str, _Rule] = {
    "llama-bpe": _Rule((("split", _LLAMA3), _WHOLE), True),
    "smaug-bpe": _Rule((("split", _LLAMA3), _WHOLE), False),
    "qwen2": _Rule((("split", _QWEN2), _WHOLE), False),
    "qwen35": _Rule((("split", _QWEN35), _WHOLE), False),
    "gpt-2": _Rule((_GPT2,), False),
    "smollm": _Rule((("digits",), _GPT2), False),
    "minicpm5": _Rule((("split", r"\p{N}{1,3}"), ("split", _MINICPM5), _WHOLE), True),
}


class _Part(TypedDict):
    """A normalizer or pre_tokenizer: one step, or a sequence of them."""

    type: str
    normalizers: NotRequired[list[_Part]]
    pretokenizers: NotRequired[list[_Part]]


class _Model(TypedDict):
    type: str
    vocab: NotRequired[dict[str, int] | list[Any]]  # a list in Unigram
    merges: NotRequired[list[str | list[str]]]


class _Added(TypedDict):
    id: int
    content: str
    special: bool


class _TokenizerJson(TypedDict):
    model: _Model
    normalizer: NotRequired[_Part | None]
    pre_tokenizer: NotRequired[_Part | None]
    added_tokens: NotRequired[list[_Added] | None]


def read_tokenizer_json(folder: Path) -> dict[str, Any] | None:
    """tokenizer.json, None without one. Raises ExportError if what is read of it has other types."""
    path = folder / "tokenizer.json"
    return read_json(path, ExportError, shape=_TokenizerJson, most=_MOST_BYTES) if path.is_file() else None


def is_byte_level_bpe(tokenizer: dict[str, Any]) -> bool:
    """Whether llama.cpp has to be told a pre-tokenizer for it; SentencePiece-like ones need none."""
    steps = flat(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return tokenizer["model"]["type"] == "BPE" and any(step["type"] == "ByteLevel" for step in steps)


def pretokenizer_name(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the rule of a byte-level BPE tokenizer (the content of tokenizer.json).

    Raises ExportError with the reason where no rule of llama.cpp is exactly the same.
    """
    model = tokenizer["model"]
    _refuse_unless_plain_bpe(model)
    rule = _Rule(tuple(_step(step) for step in flat(tokenizer.get("pre_tokenizer"), "pretokenizers")),
                 bool(model.get("ignore_merges")))  # fmt: skip
    name = next((name for name, known in _RULES.items() if known == rule), None)
    if name is None:
        raise unknown(f"its rule {list(rule.steps)} with ignore_merges={rule.ignore_merges} is none of llama.cpp's")
    for step in flat(tokenizer.get("normalizer"), "normalizers"):
        if step != {"type": "NFC"} or name not in _NFC_IGNORED:
            raise unknown(f"llama.cpp does not do its normalisation {step}")
    return name


def flat(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """The single steps of a normalizer or pre_tokenizer of tokenizer.json; `parts` is a sequence's key for its own."""
    if step is None:
        return []
    return [inner for part in step[parts] for inner in flat(part, parts)] if step["type"] == "Sequence" else [step]


def _step(step: dict[str, Any]) -> tuple[str, ...]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(regex)}:
            return _GPT2 if regex else _WHOLE
        case {"type": "Digits", "individual_digits": True}:
            return ("digits",)
        # Both forms of the same cut: keep the matches, and what lies between, as words of their own
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
            return ("split", regex)
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Removed", "invert": True}:
            return ("split", regex)
    raise unknown(f"llama.cpp has no pre-tokenizer step {step}")


def _refuse_unless_plain_bpe(model: dict[str, Any]) -> None:
    if model["type"] != "BPE":
        raise unknown(f"its model is a {model['type']}, not a BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise unknown(f"llama.cpp does not know its {option} {model[option]!r}")
    missing = [letter for letter in _byte_letters() if letter not in model["vocab"]]
    if missing:
        raise unknown(f"{len(missing)} of the 256 bytes have no token of their own, such as {missing[0]!r}")


def _byte_letters() -> list[str]:
    """The printable letters that stand for the 256 bytes in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def unknown(reason: str) -> ExportError:
    """The error for a tokenizer that llama.cpp can't follow."""
    return ExportError(
        f"llama.cpp can't cut text as this tokenizer does: {reason}",
        hint="Export merged_16bit instead, or train with a tokenizer llama.cpp knows.",
    )
