"""Everything that can be known before training, without a GPU, torch or Unsloth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.batch_search.search import with_remembered
from fastft.device import Device, find_device, free_disk
from fastft.errors import ExportError, Fault, ModelError, RecipeError
from fastft.fastpath.foreseen import foreseen
from fastft.lora_start import fit_to_adapter
from fastft.model_code import check_model_code
from fastft.model_files import read_config, read_text_config, resolve_model
from fastft.model_fit import fit_to_model
from fastft.own_code import code_warnings
from fastft.planning.advice import advice
from fastft.planning.cards import card_of
from fastft.planning.plan import Plan, make_plan
from fastft.planning.room import room_of
from fastft.planning.shape import read_shape
from fastft.planning.work import checkpointing_of, work_of
from fastft.recipe.load import load_recipe
from fastft.recipe.training_arguments import fields_of_trl
from fastft.rewards.prompts import require_prompts
from fastft.stages import require_judges
from fastft.trackers import login_warnings
from fastft.trainers import find_method
from fastft.trainers.defaults import UNKNOWN_ROOM, choose_defaults
from fastft.trainers.groups import batch_sizes

if TYPE_CHECKING:
    from fastft.data.packing import Packing
    from fastft.data.prepare import PreparedData
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.planning.memory import Checkpointing
    from fastft.planning.shape import Shape
    from fastft.recipe.schema import Recipe
    from fastft.trainers.method import Default, Method

_MANY_PASSES = 50
_USEFUL_WHERE_GROUPED = 0.9
_WHOLE_TEXTS = {"format": "text", "train_on": "all", "truncation": "split_turns"}


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A recipe found sound: its data as token ids and labels, its arguments complete, its cost planned."""

    recipe: Recipe
    tokenizer: ChatTokenizer
    data: PreparedData
    defaults: tuple[Default, ...]
    arguments: Mapping[str, Any]
    plan: Plan
    device: Device
    warnings: tuple[str, ...]

    @property
    def checkpointing(self) -> Checkpointing:
        """How activations are kept: as the recipe says, or as was chosen."""
        return checkpointing_of(self.recipe, self.arguments)

    def __repr__(self) -> str:
        """Short: the data alone would fill pages."""
        rows = f"{len(self.data.train)} train, {len(self.data.evaluation)} held out"
        return f"CheckReport({self.recipe.model.model_name}, {rows}, {self.plan.steps} steps)"


def check(source: Path | str | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> CheckReport:
    """Check the whole of a recipe: keys and values, data, labels, template, sizes, exports.

    Raises RecipeError, DatasetError or ModelError with every fault of that stage.
    """
    from fastft.data.prepare import prepare_data

    recipe = load_recipe(source, overrides)
    require_judges(recipe)
    method = _with_room(_as_packed(find_method(recipe.method), recipe.training), recipe)
    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    code = (*check_model_code(recipe.model, folder), *code_warnings(recipe))
    recipe = fit_to_adapter(fit_to_model(recipe, folder))
    tokenizer = _tokenizer(recipe, method, folder)
    max_length = _longest(recipe, method)
    seed = int(recipe.training.get("seed", 3407))
    learned = recipe.data.model_copy(update=_WHOLE_TEXTS) if method.texts else recipe.data
    data = prepare_data(learned, tokenizer, max_length=max_length, seed=seed, kind=method.kind)
    device = find_device()
    given, unpacked = _honoured(_packed_by_default(fields_of_trl(recipe.training), method), folder)
    defaults, arguments, plan = _plan(recipe, method, given, read_shape(folder), data, max_length, device)
    require_prompts(recipe, data, arguments)
    _refuse_impossible_exports(recipe, folder)
    warnings = (
        *code,
        *data.audit.warnings,
        *_loading_warnings(recipe, device),
        *foreseen(recipe, read_text_config(folder), device, arguments),
        *unpacked,
        *(method.warns(data, arguments) if method.warns else ()),
        *_schedule_warnings(arguments, plan, given),
        *_room_warnings(plan, device, Path(recipe.output_dir), recipe),
        *_hub_warnings(recipe),
        *login_warnings(recipe.training.get("report_to")),
    )
    return CheckReport(recipe, tokenizer, data, defaults, arguments, plan, device, warnings)


def _tokenizer(recipe: Recipe, method: Method, folder: Path) -> ChatTokenizer:
    """A base model without a chat template can learn texts; asked something, it continues a plain transcript."""
    from fastft.data.tokenizer import ChatTokenizer

    try:
        return ChatTokenizer.load(folder, recipe.data.chat_template)
    except ModelError:
        if not method.texts or recipe.data.chat_template is not None:
            raise
        return ChatTokenizer.load(folder, "plain")


def _as_packed(method: Method, training: Mapping[str, Any]) -> Method:
    """Without what a method would choose for packing, where the recipe wants none."""
    if training.get("packing") is not False:
        return method
    return replace(method, defaults=tuple(d for d in method.defaults if not d.key.startswith("packing")))


def _packed_by_default(training: Mapping[str, Any], method: Method) -> Mapping[str, Any]:
    """With the packing that a method wants otherwise than supervised fine-tuning."""
    return {**{d.key: d.value for d in method.defaults if d.key.startswith("packing")}, **training}


def _honoured(training: Mapping[str, Any], folder: Path) -> tuple[Mapping[str, Any], list[str]]:
    """What of `training` can be done with the model in `folder`, and what the user must be told of the rest.

    Where packed documents would see each other, batches of similar lengths waste little room either.
    """
    from fastft.data.packing import why_not_packed

    kind = read_text_config(folder).get("model_type", "")
    apart = training.get("packing_strategy") != "wrapped"  # which lets documents see those before them, anyhow
    reason = why_not_packed(kind) if training.get("packing") and apart else None
    if reason is None:
        return training, []
    rest = {key: value for key, value in training.items() if not key.startswith("packing")}
    told = f"training.packing can't be honoured: {reason}. Batches of similar lengths are made instead"
    return {**rest, "train_sampling_strategy": "group_by_length"}, [told]


def _with_room(method: Method, recipe: Recipe) -> Method:
    """Where the model answers itself, and its answers' length wasn't said: at most half of what the model can hold."""
    whole = int(recipe.model.max_seq_length or 0)
    if not method.generates or "max_completion_length" in recipe.training or not whole:
        return method
    fitting = (
        replace(default, value=min(default.value, whole // 2), reason="at most half of model.max_seq_length")
        if default.key == "max_completion_length"
        else default
        for default in method.defaults
    )
    return replace(method, defaults=tuple(fitting))


def _longest(recipe: Recipe, method: Method) -> int:
    """Tokens of the longest example; where the model answers itself, its answer needs room after the prompt."""
    whole = int(recipe.training.get("max_length") or recipe.model.max_seq_length or 0)
    if not method.generates:
        return whole
    given = {**{default.key: default.value for default in method.defaults}, **recipe.training}
    room = int(given["max_completion_length"])
    if room >= whole:
        fault = recipe.fault(
            "training.max_completion_length", f"found {room} with model.max_seq_length: {whole}", f"below {whole}",
            "Prompt and answer have to fit into max_seq_length together",
        )  # fmt: skip
        raise RecipeError(f"{recipe.source or 'recipe'} has 1 fault:", faults=[fault])
    return whole - room


def _plan(
    recipe: Recipe,
    method: Method,
    given: Mapping[str, Any],
    shape: Shape | None,
    data: PreparedData,
    max_length: int,
    device: Device,
) -> tuple[tuple[Default, ...], dict[str, Any], Plan]:
    from fastft.data.packing import pack_lengths, wrap_lengths

    lengths = data.train.lengths()
    packed = wrap_lengths if given.get("packing_strategy") == "wrapped" else pack_lengths
    packs = packed(lengths, max_length, data.audit.train.supervised) if given.get("packing") else None
    examples = len(data.train) // method.sequences
    sequences = packs.sequences if packs else examples
    known = {**{default.key: default.value for default in method.defaults}, **given}
    if method.generates:  # the answers written at a time take memory of their own
        sizes = batch_sizes(known, examples)
        known |= dict(zip(("per_device_train_batch_size", "gradient_accumulation_steps"), sizes, strict=True))
    work, card = work_of(data, method, recipe, known, packs), card_of(device)
    defaults = choose_defaults(
        given,
        method,
        parameters=shape.parameters if shape else 7_000_000_000,
        examples=examples,
        sequences=sequences,
        max_length=max_length,
        lora=recipe.lora is not None,
        on_cpu=device.is_cpu,
        room=room_of(shape, recipe, known, work, card) if shape else UNKNOWN_ROOM,
        mean=_tokens_at_once(lengths, examples, packs, max_length, padded=method.padded),
        longest=work.longest * work.width,
    )
    arguments = {default.key: default.value for default in defaults} | dict(given)
    defaults = with_remembered(recipe, defaults, arguments, device)
    arguments |= {default.key: default.value for default in defaults}
    return defaults, arguments, make_plan(shape, recipe, arguments, work, card)


def _tokens_at_once(
    lengths: Sequence[int], examples: int, packs: Packing | None, max_length: int, *, padded: bool
) -> float:
    """Tokens of a sequence that is fed, on average, with the padding that remains where rows are grouped by length."""
    if packs is not None:
        return max_length * packs.efficiency
    return sum(lengths) / max(1, examples) / (_USEFUL_WHERE_GROUPED if padded else 1)


def planned_on(checked: CheckReport, device: Device) -> tuple[tuple[Default, ...], dict[str, Any], Plan]:
    """What is chosen and planned for a sound recipe on another device than this machine's."""
    recipe = checked.recipe
    method = _with_room(_as_packed(find_method(recipe.method), recipe.training), recipe)
    folder = resolve_model(recipe.model.model_name, recipe.model.revision, weights=False)
    given, _ = _honoured(_packed_by_default(fields_of_trl(recipe.training), method), folder)
    return _plan(recipe, method, given, read_shape(folder), checked.data, _longest(recipe, method), device)


def _refuse_impossible_exports(recipe: Recipe, folder: Path) -> None:
    if not recipe.export.formats:
        return
    from fastft.exporters import check_export

    try:
        faults: Sequence[Fault] = check_export(read_config(folder), folder, recipe.export)
    except ExportError as error:
        faults = [Fault("export", error.message, "", error.hint)]
    if faults:
        raise RecipeError(f"{recipe.source or 'recipe'}: the exports asked for can't be made", faults=faults)


def _loading_warnings(recipe: Recipe, device: Device) -> list[str]:
    if not (recipe.model.load_in_8bit and device.is_cpu):
        return []
    return ["model.load_in_8bit can't be honoured on the CPU: Unsloth loads the base in 16 bits there, not in 8 bits"]


def _schedule_warnings(arguments: Mapping[str, Any], plan: Plan, given: Mapping[str, Any]) -> list[str]:
    """Numbers that are each possible and together most likely a slip."""
    warnings = []
    warmup = float(arguments.get("warmup_steps") or 0)
    if "warmup_steps" in given and (warmup if warmup >= 1 else warmup * plan.steps) >= plan.steps:
        warnings.append(
            f"training.warmup_steps is {warmup:g} and there are {plan.steps:,} steps: the learning rate "
            f"{arguments['learning_rate']:g} will never be reached"
        )
    if plan.epochs > _MANY_PASSES:
        warnings.append(
            f"{plan.steps:,} steps are {plan.epochs:,.0f} passes over {plan.sequences:,} sequences: the model will "
            "learn them by heart; lower training.max_steps or training.num_train_epochs"
        )
    return warnings


def _room_warnings(plan: Plan, device: Device, output_dir: Path, recipe: Recipe) -> list[str]:
    warnings = []
    if plan.memory > device.memory:
        warnings.append(
            f"about {plan.memory / 1e9:.1f} GB of memory will be needed and {device.name} has "
            f"{device.memory / 1e9:.1f} GB: {advice(plan, recipe)}; `fastft plan` says more"
        )
    if (free := free_disk(output_dir)) < plan.disk_total:
        warnings.append(
            f"about {plan.disk_total / 1e9:.1f} GB of disk will be needed for checkpoints and exports and "
            f"{free / 1e9:.1f} GB are free at {output_dir}"
        )
    return warnings


def _hub_warnings(recipe: Recipe) -> list[str]:
    from huggingface_hub import get_token

    if "hub" not in recipe.export.formats or get_token() is not None:
        return []
    return ["export.formats has hub, and no Hub token is found here: set HF_TOKEN, or the upload at the end will fail"]
