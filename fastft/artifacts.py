"""What a finished training leaves in the run directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError
from fastft.fastpath.audit import read_fast_path
from fastft.files import folder_hashes, sha256_of, write_json, write_text
from fastft.lora_start import relate_to_base
from fastft.model_files import TINY
from fastft.own_code import code_facts
from fastft.reading import read_json
from fastft.run import Run
from fastft.run_files import read_generation, read_start
from fastft.stages import lineage
from fastft.throughput import peak_memory

if TYPE_CHECKING:
    from fastft.checking import CheckReport
    from fastft.data.conversation import Conversation
    from fastft.data.tokenizer import ChatTokenizer
    from fastft.evaluation import Evaluation
    from fastft.recipe.schema import ModelSection, Recipe

_PACKAGES = (
    "fastft",
    "unsloth",
    "unsloth_zoo",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def write_heldout(run: Run, conversations: Sequence[Conversation]) -> None:
    """The held-out rows, a line each, so that exports can be verified from the run directory alone.

    A text as `text`; a conversation as `messages`; of a preference pair that is the prompt with the chosen answer, and
    `rejected` has it with the other one.
    """
    lines = [json.dumps(_heldout_row(conversation), ensure_ascii=False) for conversation in conversations]
    write_text(run.heldout_path, "".join(line + "\n" for line in lines))


def _heldout_row(conversation: Conversation) -> dict[str, Any]:
    if conversation.text is not None:
        return {"text": conversation.text}
    prompt = conversation.as_dicts()
    row: dict[str, Any] = {"messages": [*prompt, *(message.as_dict() for message in conversation.chosen)]}
    if conversation.rejected and conversation.chosen:
        row["rejected"] = [*prompt, *(message.as_dict() for message in conversation.rejected)]
    return row | ({"tools": list(conversation.tools)} if conversation.tools else {})


def save_trained(
    run: Run,
    checked: CheckReport,
    trainer: Any,
    before: Evaluation,
    after: Evaluation,
    measured: Mapping[str, Any] = MappingProxyType({}),
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the adapter (or the whole model), evaluation.json and, last of all, the manifest.

    `measured` is what the training's steps and its start took, `history` when it was begun and stopped.
    """
    target = run.adapter if checked.recipe.lora is not None else run.model_dir
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    adapters = {"selected_adapters": ["default"]} if checked.recipe.lora is not None else {}
    trainer.model.save_pretrained(str(partial), **adapters)
    relate_to_base(partial, run.initial_adapter)
    _name_base(partial, checked.recipe.model.model_name)
    save_tokenizer(checked.tokenizer, partial)
    _order_names(partial)
    _tidy(partial)
    (run.checkpoints / "README.md").unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # of a process that was killed before it wrote the manifest
    partial.replace(target)
    write_json(run.directory / "evaluation.json", {"before": before.as_dict(), "after": after.as_dict()})
    manifest = _manifest(run, checked, trainer, target, before, after, measured)
    run.write_manifest({**manifest, "history": list(history)})


def _order_names(adapter: Path) -> None:
    """PEFT holds the names of layers as a set and writes them in another order each time; the same run is the same."""
    path = adapter / "adapter_config.json"
    if not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    sets = {key: config.get(key) for key in ("target_modules", "exclude_modules")}
    write_json(path, config | {key: sorted(names) for key, names in sets.items() if isinstance(names, list)})


def _tidy(folder: Path) -> None:
    """Without PEFT's model card, which is an empty form; and weights as readable as other files, not only to us."""
    (folder / "README.md").unlink(missing_ok=True)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "tokenizer_config.json", weights)


def _name_base(adapter: Path, model_name: str) -> None:
    """Say the recipe's name of the base, not the folder it lay in on this machine."""
    path = adapter / "adapter_config.json"
    local = Path(model_name).is_dir() and model_name != TINY  # fastft/tiny is a folder, too, seen from a checkout
    if not path.is_file() or "/" not in model_name or local:
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if Path(config["base_model_name_or_path"]).is_dir():
        config["base_model_name_or_path"] = model_name
        write_json(path, config)


def save_tokenizer(tokenizer: ChatTokenizer, folder: Path) -> None:
    """The tokenizer's own files, untouched, with the template that was trained and its end of turn as a stop token."""
    for name in _TOKENIZER_FILES:
        if (tokenizer.folder / name).is_file():
            shutil.copyfile(tokenizer.folder / name, folder / name)
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path, ModelError) if config_path.is_file() else {}
    config.pop("chat_template", None)
    write_json(config_path, config)
    write_text(folder / "chat_template.jinja", tokenizer.chat_template)
    _stop_at_end_of_turn(tokenizer, folder / "generation_config.json")


def _stop_at_end_of_turn(tokenizer: ChatTokenizer, path: Path) -> None:
    config = read_generation(path) if path.is_file() else {}
    stops = config.get("eos_token_id", tokenizer.eos_token_id)
    stops = [stop for stop in (stops if isinstance(stops, list) else [stops]) if stop is not None]
    if tokenizer.end_of_turn_id not in stops:
        stops.insert(0, tokenizer.end_of_turn_id)
    config["eos_token_id"] = stops if len(stops) > 1 else stops[0]
    write_json(path, config)


def _manifest(
    run: Run,
    checked: CheckReport,
    trainer: Any,
    trained: Path,
    before: Evaluation,
    after: Evaluation,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    recipe, state = checked.recipe, trainer.state
    start = read_start(run.start_path)
    base, arguments = start["base"], start["arguments"]
    return {
        "fastft_manifest": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": _model_facts(recipe.model, base),
        "method": recipe.method,
        "lineage": lineage(run.name, recipe.method, _parents(recipe)),
        "versions": {package: version(package) for package in _PACKAGES},
        "device": checked.device.as_dict(),
        "seeds": {
            "training": arguments["seed"],
            "lora": recipe.lora.random_state if recipe.lora else None,
        },
        "arguments": arguments,
        "data": checked.data.audit.as_dict(),
        "template_sha256": checked.tokenizer.template_sha256,
        **code_facts(run, recipe),
        "plan": checked.plan.as_dict(),
        "fast_path": read_fast_path(run),
        "training": {"steps": state.global_step, "epochs": state.epoch, "peak_memory": peak_memory(), **measured},
        "evaluation": {"before": _summary(before), "after": _summary(after)},
        "files": _hashes(run, trained),
    }


def _parents(recipe: Recipe) -> dict[str, str]:
    """What the run started from, by its role."""
    adapter = recipe.lora.adapter_name_or_path if recipe.lora else None
    found = {"model": recipe.model.model_name} | ({"adapter": adapter} if adapter else {})
    rewards = [reward.run for reward in recipe.rewards if reward.run]
    return found | {f"reward {number}": run for number, run in enumerate(rewards, start=1)}


def _model_facts(model: ModelSection, base: Mapping[str, Any]) -> dict[str, Any]:
    """The revision is the commit where the Hub told one: a branch's name may stand for other weights later."""
    commit = base["commit"] if base["model_name"] == model.model_name else None
    return {"model_name": model.model_name, "revision": commit or model.revision, "base": dict(base)}


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    whole = evaluation.as_dict()
    return {key: whole[key] for key in ("loss", "perplexity", "supervised_tokens", "exact_share", "metrics")}


def _hashes(run: Run, trained: Path) -> dict[str, str]:
    single = [run.recipe_path, run.start_path, run.audit_path, run.heldout_path, run.directory / "evaluation.json"]
    hashes = {path.name: sha256_of(path) for path in single if path.is_file()}
    return hashes | {f"{trained.name}/{name}": digest for name, digest in folder_hashes(trained).items()}
