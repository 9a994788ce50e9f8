"""Rules of early stopping, of the best model's metric and of samples: what they need in the rest of the recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown
from fastft.recipe.suggest import listed, nearest
from fastft.recipe.trl_config import logged_metrics
from fastft.trainers import find_method

# What every evaluation measures; the names are transformers'.
_ALWAYS = ("loss", "runtime", "samples_per_second", "steps_per_second")


def _early_stopping(given: Given) -> Iterator[Clash]:
    if given.recipe.early_stopping is None:
        return
    if given.recipe.data.eval_split is None:
        found, hint = "found without data.eval_split", "Set data.eval_split, e.g. 0.05"
        yield Clash(("early_stopping", "data.eval_split"), found, "held-out rows", hint)
    if given.training("eval_strategy", "no") == "no":
        keys = ("early_stopping", "training.eval_strategy")
        yield Clash(keys, "found without evaluation", "training.eval_strategy: steps or epoch")
    if not given.training("load_best_model_at_end"):
        keys = ("early_stopping", "training.load_best_model_at_end")
        hint = "Without it the run would keep the last weights, which had got worse"
        yield Clash(keys, "found without the best model", "training.load_best_model_at_end: true", hint)


def _best_metric(given: Given) -> Iterator[Clash]:
    """transformers would say so only at the first evaluation."""
    wanted = given.training("metric_for_best_model")
    if wanted is None:
        return
    key, name = "training.metric_for_best_model", str(wanted).removeprefix("eval_")
    known = (*_ALWAYS, *logged_metrics(given.recipe.method), *find_method(given.recipe.method).measures)
    if not any(re.fullmatch(re.escape(metric).replace("\\*", ".+"), name) for metric in known):
        near = nearest(name, known)
        hint = f"Did you mean {near}?" if near else ""
        found = f"{shown(wanted)}, which {given.recipe.method} does not measure"
        yield Clash((key,), found, listed(dict.fromkeys(known), limit=30), hint)


def _samples(given: Given) -> Iterator[Clash]:
    evaluation, key = given.recipe.evaluation, "evaluation.sample_steps"
    if evaluation.sample_steps is None:
        return
    if find_method(given.recipe.method).classifies:
        found = f"found {evaluation.sample_steps} with method {given.recipe.method}, which writes no text"
        yield Clash((key, "method"), found, "no sample_steps")
    elif not evaluation.prompts:
        found = f"found {evaluation.sample_steps} without evaluation.prompts"
        yield Clash((key, "evaluation.prompts"), found, "prompts to answer")


COMFORT_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (_early_stopping, _best_metric, _samples)
