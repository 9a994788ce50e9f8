from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastft.errors import ModelError, RecipeError
from fastft.metrics import BertScorer, find_bert_scorer, text_scores

ANSWERS = ["the cat sat on the mat", "yes", "", "The quick brown fox jumps over a dog.\n"]
EXPECTED = ["a cat sat on a mat", "yes", "never empty", "The quick brown fox jumped over the lazy dog."]


def test_rouge_bleu_and_chrf_are_what_the_libraries_give_on_the_same_pairs() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu, corpus_chrf, sentence_chrf

    scores = text_scores(ANSWERS, EXPECTED)
    stripped = [answer.strip() for answer in ANSWERS]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(e, a)[name].fmeasure for a, e in zip(stripped, EXPECTED, strict=True)]
        assert [row[name] for row in scores.rows] == each
        assert getattr(scores, name) == pytest.approx(sum(each) / 4)
    assert scores.bleu == corpus_bleu(stripped, [EXPECTED]).score
    assert scores.chrf == corpus_chrf(stripped, [EXPECTED]).score
    assert [row["chrf"] for row in scores.rows] == [
        sentence_chrf(a, [e]).score for a, e in zip(stripped, EXPECTED, strict=True)
    ]
    assert 0 < scores.rouge2 < scores.rouge1 < 1
    assert 0 < scores.bleu < scores.chrf < 100


def test_a_known_pair_by_hand() -> None:
    scores = text_scores(["a b c d"], ["a b x d"])
    assert scores.rouge1 == scores.rougeL == 0.75
    assert scores.rouge2 == pytest.approx(1 / 3)
    assert text_scores(["the same here now"], ["the same here now"]).bleu == pytest.approx(100)


def test_exact_is_the_same_text_but_for_space_around_it() -> None:
    scores = text_scores([" yes\n", "Yes", "no"], ["yes", "yes", "no"])
    assert [row["exact"] for row in scores.rows] == [True, False, True]
    assert scores.exact_match == pytest.approx(2 / 3)


def test_words_of_every_alphabet_count() -> None:
    russian = text_scores(["привет мой мир"], ["привет мир"])
    assert russian.rouge1 == pytest.approx(0.8)
    assert "every alphabet" in russian.signatures["rouge"]
    assert "tok:13a" in russian.signatures["bleu"]
    chinese = text_scores(["今天天气很好"], ["今天天气不好"])
    assert chinese.rouge1 == pytest.approx(5 / 6)
    assert "tok:zh" in chinese.signatures["bleu"]
    assert "its own tokenizer" in text_scores(["yes"], ["no"]).signatures["rouge"]


@pytest.mark.slow
def test_bertscore_of_a_model_that_is_not_there_is_left_out_or_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bert_score")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty cache"))
    scorer, why_not = find_bert_scorer(None)
    assert scorer is None
    assert "roberta-large" in why_not
    for name in (str(tmp_path / "nothing"), "nobody/nothing", "a//b"):
        with pytest.raises(RecipeError, match="no such model folder"):
            find_bert_scorer(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(RecipeError, match="bert-score") as raised:
        find_bert_scorer(str(tmp_path))
    assert "--extra eval" in raised.value.hint
    assert find_bert_scorer(None) == (None, "bert-score is not installed")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT with a word-piece vocabulary, as a local folder."""
    pytest.importorskip("bert_score")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "the", "cat", "mat", "yes"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
        "vocab_size": len(words), "max_position_embeddings": 64,
    }  # fmt: skip
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_bertscore_is_what_the_library_gives_with_a_local_model(bert: Path) -> None:
    from bert_score import score

    scorer, why_not = find_bert_scorer(str(bert))
    assert why_not == ""
    assert scorer is not None
    assert scorer.layer == 2  # two thirds of three
    scores = text_scores(["the cat", "yes", ""], ["the mat", "yes", "mat"], scorer)
    found: Any = score(["the cat", "yes"], ["the mat", "yes"], model_type=str(bert), num_layers=2)
    assert [row["bertscore"] for row in scores.rows] == pytest.approx([*found[2].tolist(), 0])
    assert scores.rows[1]["bertscore"] == pytest.approx(1, abs=1e-5)
    assert scores.rows[0]["bertscore"] < 0.999
    assert scores.bertscore == pytest.approx(sum(found[2].tolist()) / 3)


def test_a_folder_that_bertscore_cannot_use_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="BERTScore can't be computed"):
        BertScorer(tmp_path, 1).rows(["a"], ["a"])
