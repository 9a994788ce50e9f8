"""How close answers are to the expected ones: exact match, ROUGE, BLEU, chrF and BERTScore, by their own libraries."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastft.errors import ModelError, RecipeError
from fastft.files import at_home, is_folder

ROUGE = ("rouge1", "rouge2", "rougeL")
_BERTSCORE_MODEL = "roberta-large"  # the library's own choice for English
_BERTSCORE_LAYER = 17  # of it, by the library's table
_MOSTLY = 0.3  # share of the letters from which a text counts as Chinese or Japanese
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class TextScores:
    """Of pairs of an answer and the expected one. `rows` holds each pair's own scores, in order.

    ROUGE values are mean F-measures, exact match a share, both from 0 to 1; BLEU and chrF are of the whole set, from 0
    to 100. `signatures` says in sacrebleu's and rouge-score's words how they were computed.
    """

    exact_match: float
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 (as the library spells it)
    bleu: float
    chrf: float
    rows: tuple[dict[str, Any], ...]
    signatures: dict[str, str]
    bertscore: float | None = None


@dataclass(frozen=True, slots=True)
class BertScorer:
    """BERTScore with the model in `folder`, of which hidden layer `layer` is compared."""

    folder: Path
    layer: int
    name: str = field(default="")

    def rows(self, answers: Sequence[str], expected: Sequence[str]) -> list[float]:
        """F1 of each pair; 0 where one of the texts is empty. Raises ModelError if the model can't be used for it."""
        from bert_score import score

        # The library gives an empty text 0 too, but by a method of tokenizers that transformers 5 has no more.
        full = [index for index, pair in enumerate(zip(answers, expected, strict=True)) if all(pair)]
        if not full:
            return [0.0] * len(answers)
        given, wanted = [answers[index] for index in full], [expected[index] for index in full]
        try:
            found: Any = score(given, wanted, model_type=str(self.folder), num_layers=self.layer, verbose=False)
        except (OSError, ValueError, RuntimeError, AssertionError, AttributeError, OverflowError, TypeError) as error:
            raise ModelError(f"BERTScore can't be computed with {self.folder}: {error}") from error
        values = dict(zip(full, found[2].tolist(), strict=True))
        return [values.get(index, 0.0) for index in range(len(answers))]


def text_scores(answers: Sequence[str], expected: Sequence[str], bertscore: BertScorer | None = None) -> TextScores:
    """Scores of `answers` against `expected`, pair by pair and over all; outer white space never counts.

    There must be at least one pair.
    """
    from sacrebleu.metrics.chrf import CHRF

    pairs = [(a.strip(), e.strip()) for a, e in zip(answers, expected, strict=True)]
    given, wanted = [a for a, _ in pairs], [e for _, e in pairs]
    rouge, rouge_signature = _rouge(given, wanted)
    bleu, chrf = _bleu(wanted), CHRF()
    bert = bertscore.rows(given, wanted) if bertscore else []
    rows = []
    for number, (a, e) in enumerate(pairs):
        row = {
            "exact": a == e,
            **{name: rouge[number][name] for name in ROUGE},
            "chrf": chrf.sentence_score(a, [e]).score,
        }
        rows.append(row | ({"bertscore": bert[number]} if bert else {}))
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("exact", *ROUGE)}
    whole_bleu, whole_chrf = bleu.corpus_score(given, [wanted]).score, chrf.corpus_score(given, [wanted]).score
    signatures = {
        "rouge": rouge_signature,
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
    }
    if bertscore:
        signatures["bertscore"] = f"{bertscore.name}, layer {bertscore.layer}, F1"
    return TextScores(
        exact_match=mean.pop("exact"),
        bleu=whole_bleu,
        chrf=whole_chrf,
        rows=tuple(rows),
        signatures=signatures,
        bertscore=sum(bert) / len(bert) if bert else None,
        **mean,
    )


def _rouge(given: Sequence[str], wanted: Sequence[str]) -> tuple[list[dict[str, float]], str]:
    """(F-measures of each pair, how). The library's own tokenizer sees only a-z and 0-9, so answers in other letters
    would all score 0; for those it is given one that sees every letter, and each Chinese or Japanese one as a word."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class EveryLetter(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return _WORD.findall(text.lower())

    logging.getLogger("absl").setLevel(logging.WARNING)  # it announces its tokenizer at each start
    latin = not any(letter.isalpha() and not letter.isascii() for text in wanted for letter in text)
    scorer = RougeScorer(list(ROUGE), tokenizer=None if latin else EveryLetter())
    found = [scorer.score(target=e, prediction=a) for a, e in zip(given, wanted, strict=True)]
    how = "rouge-score, F-measure, no stemmer, " + ("its own tokenizer" if latin else "words of every alphabet")
    return [{name: scores[name].fmeasure for name in ROUGE} for scores in found], how


def _bleu(wanted: Sequence[str]) -> Any:
    """sacrebleu's BLEU, with its tokenizer for Chinese where words aren't set apart by spaces."""
    from sacrebleu.metrics.bleu import BLEU

    letters = sum(letter.isalpha() for text in wanted for letter in text)
    han = sum(len(_HAN.findall(text)) for text in wanted)
    return BLEU(tokenize="zh" if letters and han / letters > _MOSTLY else None)


def find_bert_scorer(model: Path | str | None) -> tuple[BertScorer | None, str]:
    """(the scorer or None, why there is none). `model` is a folder or a Hub id in the local cache; None means the
    library's own choice, if it is there: nothing is ever downloaded.

    Raises RecipeError if a model was named and the package or the model isn't there.
    """
    name = str(model or _BERTSCORE_MODEL)
    installed = importlib.util.find_spec("bert_score") is not None
    if not installed:
        if model is None:
            return None, "bert-score is not installed"
        raise RecipeError("BERTScore needs the package bert-score", hint="Install it: uv sync --extra eval")
    folder = at_home(name) if is_folder(name) else _in_hub_cache(name)
    if folder is None or not (folder / "config.json").is_file():
        if model is None:
            return None, f"its model {name} is not on this machine"
        raise RecipeError(f"--bertscore {name}: no such model folder, and none of that name in the Hub's cache")
    return BertScorer(folder, _layer(name, folder), name), ""


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def _layer(name: str, folder: Path) -> int:
    """The layer that the library's table names; for models it doesn't know, two thirds of the way up."""
    from bert_score.utils import model2layers

    from fastft.model_files import read_text_config

    if name == _BERTSCORE_MODEL:
        return _BERTSCORE_LAYER
    known = model2layers.get(name) or model2layers.get(folder.name)
    return known or max(1, round(read_text_config(folder).get("num_hidden_layers", 12) * 2 / 3))
