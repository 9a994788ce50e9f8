"""Values that are each fine and do not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastft.recipe.batch_rules import BATCH_RULES
from fastft.recipe.clash import Clash, Given
from fastft.recipe.code_rules import CODE_RULES
from fastft.recipe.comfort_rules import COMFORT_RULES
from fastft.recipe.data_rules import DATA_RULES
from fastft.recipe.describe import shown
from fastft.recipe.document import Document, KeyPath
from fastft.recipe.export_rules import EXPORT_RULES
from fastft.recipe.lora_rules import LORA_RULES
from fastft.recipe.online_rules import ONLINE_RULES
from fastft.recipe.preference_rules import PREFERENCE_RULES
from fastft.recipe.reward_rules import REWARD_RULES
from fastft.recipe.schema import Recipe
from fastft.recipe.text_rules import TEXT_RULES
from fastft.trainers import find_method


def add_contradictions(recipe: Recipe, document: Document, at_fault: set[KeyPath]) -> None:
    """Add a fault for each contradiction. A rule about a key that is at fault itself says nothing."""
    given = Given(recipe, document)
    wrong = {path[:2] for path in at_fault}
    for rule in RULES:
        for clash in rule(given):
            paths = clash.paths
            if not any(path in wrong or path[:1] in wrong for path in paths):
                _add(document, clash, paths)


def _add(document: Document, clash: Clash, paths: list[KeyPath]) -> None:
    """Placed at the override that brought it about, if one did."""
    written = [path for path in paths if document.has(path)]
    path = max(written, key=lambda p: (bool(document.place(p).override), -paths.index(p)), default=paths[0])
    others = [
        f"{'.'.join(map(str, other))} is at {document.place(other).text}"
        for other in written
        if other != path and document.place(other).line
    ]
    hint = ". ".join(part for part in (clash.hint, "; ".join(others)) if part)
    document.add(path, clash.found, clash.expected, hint)


def _loading(given: Given) -> Iterator[Clash]:
    model = given.recipe.model
    ways = ("load_in_4bit", "load_in_8bit", "load_in_16bit", "full_finetuning")
    chosen = [f"model.{way}" for way in ways if getattr(model, way)]
    if len(chosen) > 1:
        yield Clash(tuple(reversed(chosen)), f"found {' and '.join(chosen)} true", "one of them")


def _lora_or_full(given: Given) -> Iterator[Clash]:
    recipe = given.recipe
    if recipe.lora is not None and recipe.model.full_finetuning:
        found = "a lora section together with model.full_finetuning: true"
        hint = "Full fine-tuning trains every weight: take the lora section out (lora: null)"
        yield Clash(("lora", "model.full_finetuning"), found, "one of them", hint)
    if recipe.lora is None and not recipe.model.full_finetuning:
        hint = "`lora: {r: 16}` trains a LoRA; model.full_finetuning: true trains every weight"
        yield Clash(("lora", "model.full_finetuning"), "missing", "what is to be trained", hint)


def _precision(given: Given) -> Iterator[Clash]:
    for half, brain in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if given.training(half) and given.training(brain):
            keys = (f"training.{half}", f"training.{brain}")
            yield Clash(keys, f"found {half} and {brain} true", "at most one of them")
    for flag, dtype in (("fp16", "bfloat16"), ("bf16", "float16")):
        if given.training(flag) and given.recipe.model.dtype == dtype:
            keys = (f"training.{flag}", "model.dtype")
            yield Clash(keys, f"found {flag}: true with model.dtype: {dtype}", "the same precision in both")


def _lengths(given: Given) -> Iterator[Clash]:
    longest, length = given.recipe.model.max_seq_length, given.training("max_length")
    if length is not None and longest is not None and length > longest:
        found = f"found {length} with model.max_seq_length: {longest}"
        yield Clash(("training.max_length", "model.max_seq_length"), found, f"at most {longest}")


def _duration(given: Given) -> Iterator[Clash]:
    steps = given.training("max_steps", -1)
    if steps > 0 and given.training("num_train_epochs") is not None:
        found = f"found {steps} together with num_train_epochs: {given.training('num_train_epochs')}"
        yield Clash(
            ("training.max_steps", "training.num_train_epochs"),
            found,
            "one of them",
            "max_steps would win; keep the one you mean",
        )


def _held_out(given: Given) -> Iterator[Clash]:
    """What needs held-out rows, where the recipe holds none out."""
    if given.recipe.data.eval_split is not None:
        return
    expected, hint = "held-out rows", "Set data.eval_split, e.g. 0.05"
    needing = {
        "eval_strategy": lambda value: value != "no",
        "load_best_model_at_end": bool,
        "eval_on_start": bool,
        "eval_packing": lambda value: value is not None,
    }
    for key, needs in needing.items():
        if key in given.recipe.training and needs(given.training(key)):
            found = f"{shown(given.training(key))} without data.eval_split"
            yield Clash((f"training.{key}", "data.eval_split"), found, expected, hint)
    if given.written("evaluation.samples") and given.recipe.evaluation.samples:
        found = f"{shown(given.recipe.evaluation.samples)} without data.eval_split"
        yield Clash(("evaluation.samples", "data.eval_split"), found, expected, hint)


def _strategies(given: Given) -> Iterator[Clash]:
    """Steps given for something that does not go by steps."""
    for kind in ("eval", "save", "logging"):
        strategy, steps = given.training(f"{kind}_strategy"), given.training(f"{kind}_steps")
        if steps is not None and strategy not in (None, "steps"):
            found = f"{shown(steps)} with {kind}_strategy: {strategy}"
            keys = (f"training.{kind}_steps", f"training.{kind}_strategy")
            yield Clash(keys, found, f"{kind}_strategy: steps, or no {kind}_steps")
    if given.training("eval_steps") is not None and "eval_strategy" not in given.recipe.training:
        found = f"{shown(given.training('eval_steps'))} without eval_strategy"
        yield Clash(("training.eval_steps", "training.eval_strategy"), found, "eval_strategy: steps")


def _best_model(given: Given) -> Iterator[Clash]:
    if not given.training("load_best_model_at_end") or given.recipe.data.eval_split is None:
        return
    evaluates, saves = given.training("eval_strategy", "no"), given.training("save_strategy", "steps")
    keys = ("training.load_best_model_at_end", "training.eval_strategy", "training.save_strategy")
    if evaluates == "no":
        yield Clash(keys[:2], "found true without evaluation", "eval_strategy: steps or epoch")
    elif saves not in (evaluates, "best"):
        found = f"found true with eval_strategy: {evaluates} and save_strategy: {saves}"
        yield Clash(keys, found, "the same strategy for both, or save_strategy: best")
    elif evaluates == saves == "steps":
        yield from _best_steps(given)


def _best_steps(given: Given) -> Iterator[Clash]:
    """transformers wants checkpoints at steps where an evaluation was; shares only go with shares."""
    evaluated, saved = given.training("eval_steps"), given.training("save_steps")
    if evaluated is None or saved is None:
        return
    mixed = (evaluated < 1) != (saved < 1)
    if mixed or round(saved * 1_000_000) % round(evaluated * 1_000_000):
        keys = ("training.save_steps", "training.eval_steps", "training.load_best_model_at_end")
        found = f"found {saved} with eval_steps: {evaluated} and load_best_model_at_end: true"
        yield Clash(keys, found, f"a multiple of {evaluated}")


def _schedule(given: Given) -> Iterator[Clash]:
    schedule, warmup = given.training("lr_scheduler_type"), given.training("warmup_steps")
    key = "training.lr_scheduler_type"
    if schedule == "constant" and warmup:
        found = f"{shown(warmup)} with lr_scheduler_type: constant, which has no warm-up"
        yield Clash(("training.warmup_steps", key), found, "lr_scheduler_type: constant_with_warmup")
    if schedule in ("reduce_lr_on_plateau", "greedy") and given.training("eval_strategy", "no") == "no":
        keys = (key, "training.eval_strategy")
        yield Clash(keys, f'found "{schedule}" without evaluation', "eval_strategy: steps or epoch")
    kwargs = given.training("lr_scheduler_kwargs") or {}
    needs = {
        "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
        "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
        "warmup_stable_decay": ("num_decay_steps",),
    }.get(str(schedule), ())
    if needs and isinstance(kwargs, dict) and not set(needs) & set(kwargs):
        expected = f"{' or '.join(needs)} in training.lr_scheduler_kwargs"
        yield Clash((key, "training.lr_scheduler_kwargs"), f'found "{schedule}" alone', expected)


def _packing(given: Given) -> Iterator[Clash]:
    strategy, data = given.training("packing_strategy"), given.recipe.data
    key = "training.packing_strategy"
    if not given.training("packing"):
        if strategy is not None and not find_method(given.recipe.method).texts:
            yield Clash((key, "training.packing"), f'found "{strategy}" without packing', "packing: true")
        return
    if find_method(given.recipe.method).texts:
        pass  # see text_rules
    elif strategy == "wrapped" and data.train_on != "all":
        hint = "It cuts conversations anywhere, so answers would be learned without their question"
        found = f'found "wrapped" with data.train_on: {data.train_on}'
        yield Clash((key, "data.train_on"), found, "bfd, or data.train_on: all", hint)
    elif strategy in ("wrapped", "bfd_split") and data.truncation != "keep_start":
        found = f'found "{strategy}", which splits what is too long, with data.truncation: {data.truncation}'
        yield Clash((key, "data.truncation"), found, "packing_strategy: bfd")
    sampling = given.training("train_sampling_strategy")
    if sampling in ("group_by_length", "batch_rebalance"):
        found = f'found "{sampling}" with packing: true, which makes all sequences the same length'
        yield Clash(("training.train_sampling_strategy", "training.packing"), found, "one of them")


def _workers(given: Given) -> Iterator[Clash]:
    if given.training("dataloader_num_workers", 0):
        return
    for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if given.training(key):
            keys = (f"training.{key}", "training.dataloader_num_workers")
            found = f"{shown(given.training(key))} without workers"
            yield Clash(keys, found, "dataloader_num_workers of at least 1")


def _checkpointing(given: Given) -> Iterator[Clash]:
    lora, recompute = given.recipe.lora, given.training("gradient_checkpointing")
    chosen = lora is not None and lora.use_gradient_checkpointing == "auto"
    if lora is None or recompute is None or chosen or not given.written("lora.use_gradient_checkpointing"):
        return
    if bool(lora.use_gradient_checkpointing) != recompute:
        keys = ("training.gradient_checkpointing", "lora.use_gradient_checkpointing")
        other = shown(lora.use_gradient_checkpointing).removeprefix("found ")
        found = f"{shown(recompute)} with lora.use_gradient_checkpointing: {other}"
        yield Clash(keys, found, "the same in both", "lora.use_gradient_checkpointing alone is enough")


RULES: tuple[Callable[[Given], Iterator[Clash]], ...] = (
    _loading,
    _lora_or_full,
    _precision,
    _lengths,
    _duration,
    _held_out,
    _strategies,
    _best_model,
    _schedule,
    _packing,
    _workers,
    _checkpointing,
    *DATA_RULES,
    *PREFERENCE_RULES,
    *EXPORT_RULES,
    *REWARD_RULES,
    *LORA_RULES,
    *COMFORT_RULES,
    *TEXT_RULES,
    *ONLINE_RULES,
    *BATCH_RULES,
    *CODE_RULES,
)
