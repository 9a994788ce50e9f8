"""Values that don't go together where a method learns from pairs, judged answers or prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastft.recipe.clash import Clash, Given
from fastft.recipe.describe import shown
from fastft.recipe.named_values import losses_with_f_divergence
from fastft.trainers import find_method

# What a pair, a judged answer or a prompt is called in messages.
_ROWS = {"preference": "pairs of answers", "unpaired": "judged answers", "prompt": "prompts"}
# The losses of TRL's trainers that read label_smoothing; the others leave it aside without a word, or with a warning.
_SMOOTHED = {"dpo": ("robust", "exo_pair", "aot", "aot_unpaired"), "cpo": ("sigmoid", "simpo", "alphapo")}
# Options of one loss or divergence alone: method and option -> the field that chooses it, the values that read it.
_READ_BY = {
    ("dpo", "discopop_tau"): ("loss_type", ("discopop",)),
    ("dpo", "f_alpha_divergence_coef"): ("f_divergence_type", ("alpha_divergence",)),
    ("cpo", "simpo_gamma"): ("loss_type", ("simpo", "alphapo")),
}
_CHOSEN = {"f_divergence_type": "reverse_kl"}  # TRL's default where it isn't sigmoid


def _rows(given: Given) -> str:
    """What the method's rows are; "" for those that learn conversations."""
    return _ROWS.get(find_method(given.recipe.method).kind, "")


def _losses(given: Given) -> list[str]:
    loss = given.training("loss_type", "sigmoid")
    return list(loss) if isinstance(loss, list) else [str(loss)]


def _data(given: Given) -> Iterator[Clash]:
    rows, data = _rows(given), given.recipe.data
    if rows and data.train_on != "assistant":
        found = f'found "{data.train_on}" with method: {given.recipe.method}, which learns from {rows}'
        hint = "Leave it out: the answers of a row are compared whole"
        yield Clash(("data.train_on", "method"), found, "assistant", hint)
    if rows and data.truncation in ("keep_end", "split_turns"):
        found = f'found "{data.truncation}" with method: {given.recipe.method}, which learns from {rows}'
        hint = "What is too long loses the end of its answer, or is left out with drop; its prompt is never cut"
        yield Clash(("data.truncation", "method"), found, "keep_start or drop", hint)


def _samples(given: Given) -> Iterator[Clash]:
    rows, samples = _rows(given), given.recipe.evaluation.samples
    if rows and samples and given.written("evaluation.samples") and given.recipe.data.eval_split is not None:
        found = f"{shown(samples)} with method: {given.recipe.method}"
        hint = f"{rows[:1].upper()}{rows[1:]} have no one right answer; the method's own measures are taken instead"
        yield Clash(("evaluation.samples", "method"), found, "0, or no such key", hint)


def _beta(given: Given) -> Iterator[Clash]:
    method, beta = given.recipe.method, given.training("beta")
    if method in ("dpo", "orpo", "cpo", "kto") and beta is not None and beta <= 0:
        yield Clash(("training.beta",), shown(beta), "a number above 0", "Nothing would be preferred with it")


def _sampling(given: Given) -> Iterator[Clash]:
    """transformers sorts by the length of input_ids, which rows of two answers don't have; KTO pairs neighbours."""
    method, sampling = given.recipe.method, given.training("train_sampling_strategy")
    key = "training.train_sampling_strategy"
    if method == "kto":
        if sampling not in (None, "sequential") and given.training("loss_type", "kto") == "kto":
            hint = "The KL term pairs neighbours. fastft shuffles the rows once, by training.seed"
            yield Clash((key, "training.loss_type"), f"{shown(sampling)} with loss_type: kto", "sequential", hint)
    elif method in ("dpo", "orpo", "cpo") and sampling not in (None, "random", "sequential"):
        yield Clash((key, "method"), f"{shown(sampling)} with method: {method}", "random or sequential")


def _kto_batch(given: Given) -> Iterator[Clash]:
    one = given.training("per_device_train_batch_size") == 1
    if given.recipe.method == "kto" and one and given.training("loss_type", "kto") == "kto":
        hint = "The KL term puts the answers of a batch to each other's prompts; gradient_accumulation_steps adds none"
        keys = ("training.per_device_train_batch_size", "method")
        yield Clash(keys, "found 1 with method: kto", "at least 2, or loss_type: apo_zero_unpaired", hint)


def _smoothing(given: Given) -> Iterator[Clash]:
    method, key = given.recipe.method, "training.label_smoothing"
    if method not in _SMOOTHED:
        return
    losses, smoothing = _losses(given), given.training("label_smoothing", 0)
    if smoothing and not set(losses) & set(_SMOOTHED[method]):
        found = f"{shown(smoothing)} with loss_type: {', '.join(losses)}, which TRL computes without it"
        yield Clash((key, "training.loss_type"), found, f"loss_type: {' or '.join(_SMOOTHED[method])}")
    if "exo_pair" in losses and not smoothing:
        keys = ("training.loss_type", key)
        yield Clash(keys, 'found "exo_pair" without label_smoothing', "label_smoothing above 0, e.g. 1e-3")


def _dpo(given: Given) -> Iterator[Clash]:
    """What TRL refuses once the model is loaded."""
    if given.recipe.method != "dpo":
        return
    losses, weights = _losses(given), given.training("loss_weights")
    if weights is not None and len(weights) != len(losses):
        found = f"{shown(weights)} with {len(losses)} loss_type"
        yield Clash(("training.loss_weights", "training.loss_type"), found, f"{len(losses)} numbers, one for each loss")
    divergence, able = given.training("f_divergence_type", "reverse_kl"), losses_with_f_divergence()
    if divergence != "reverse_kl" and (unable := [loss for loss in losses if loss not in able]):
        keys = ("training.f_divergence_type", "training.loss_type")
        found = f"{shown(divergence)} with loss_type: {', '.join(unable)}"
        yield Clash(keys, found, f"loss_type of {', '.join(able)}, or f_divergence_type: reverse_kl")
    if given.training("use_weighting") and (sorting := [loss for loss in losses if loss.startswith("aot")]):
        keys = ("training.use_weighting", "training.loss_type")
        yield Clash(keys, f"found true with loss_type: {sorting[0]}, which sorts the pairs", "another loss_type")


def _without_effect(given: Given) -> Iterator[Clash]:
    """Options that the chosen loss never reads."""
    for (method, option), (chooser, readers) in _READ_BY.items():
        if method != given.recipe.method or given.training(option) is None:
            continue
        chosen: Any = _losses(given) if chooser == "loss_type" else [given.training(chooser, _CHOSEN[chooser])]
        if not set(chosen) & set(readers):
            found = f"{shown(given.training(option))} with {chooser}: {', '.join(chosen)}, which doesn't read it"
            yield Clash((f"training.{option}", f"training.{chooser}"), found, f"{chooser}: {' or '.join(readers)}")


def _alphapo(given: Given) -> Iterator[Clash]:
    """TRL takes alphapo for simpo with cpo_alpha 0, and its shape from alpha, which is 0 unless it is set."""
    if given.recipe.method != "cpo" or given.training("loss_type") != "alphapo":
        return
    if not given.training("alpha"):
        yield Clash(("training.loss_type", "training.alpha"), 'found "alphapo" without alpha', "alpha, e.g. 0.25")
    if given.training("cpo_alpha"):
        keys = ("training.cpo_alpha", "training.loss_type")
        yield Clash(keys, f"{shown(given.training('cpo_alpha'))} with loss_type: alphapo", "0, or loss_type: simpo")


PREFERENCE_RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (
    _data,
    _samples,
    _beta,
    _sampling,
    _kto_batch,
    _smoothing,
    _dpo,
    _without_effect,
    _alphapo,
)
