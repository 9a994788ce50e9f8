"""The model card of an uploaded export: recipe, data, metrics, proof and how to run it, all from the run's manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import yaml
from typing_extensions import TypedDict

from fastft.data.audit import Audit
from fastft.errors import ExportError
from fastft.reading import read_yaml, require_shape
from fastft.redaction import redact
from fastft.run_files import proof_notes, read_card_facts, read_proof

if TYPE_CHECKING:
    from fastft.exporters.source import Trained

_RELATION = {"merged_16bit": "finetune", "merged_4bit": "quantized", "adapter": "adapter", "gguf_lora": "adapter",
             "gguf": "quantized"}  # fmt: skip
_LIBRARY = {"merged_16bit": "transformers", "merged_4bit": "transformers", "adapter": "peft"}
_WHAT = {
    "merged_16bit": "the merged model in 16 bits",
    "merged_4bit": "the merged model in bitsandbytes' 4 bits",
    "adapter": "a LoRA adapter",
    "gguf_lora": "a LoRA adapter for llama.cpp",
    "gguf": "GGUF files for llama.cpp, Ollama and LM Studio",
}


class _Data(TypedDict):
    path: NotRequired[Any]


class _Recipe(TypedDict):
    """What a card tells of recipe.yaml, beside the whole of it."""

    data: NotRequired[_Data | None]
    method: NotRequired[str]


_PUT_BACK = "Put the file back as training wrote it."


def model_card(kind: str, repository: str, folders: Sequence[Path], trained: Trained, manifest: Path) -> str:
    """README.md for `repository`, which holds the exports `folders` of one `kind`.

    Raises ExportError where manifest, recipe or a proof can't be read.
    """
    facts = read_card_facts(manifest) if manifest.is_file() else {}
    recipe = _recipe(manifest.with_name("recipe.yaml"))
    parts = [_front_matter(kind, trained, recipe), f"# {repository.partition('/')[2]}\n\n{_opening(kind, trained)}"]
    parts += [f"## Run it\n\n{_how_to_run(kind, repository, folders)}", _proof(folders)]
    if facts:
        parts += [_metrics(facts), _data(facts["data"], manifest)]
    if recipe:
        written = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        parts.append(f"## Recipe\n\n```yaml\n{written}```\n\n{_versions(facts)}")
    return redact("\n\n".join(part for part in parts if part) + "\n")


def _front_matter(kind: str, trained: Trained, recipe: dict[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    source = str((recipe.get("data") or {}).get("path", ""))
    base = trained.source.model_name
    data = ModelCardData(
        base_model=base if not Path(base).is_absolute() else None,
        base_model_relation=_RELATION[kind],
        library_name=_LIBRARY.get(kind),
        pipeline_tag="text-generation",
        datasets=[source] if source.count("/") == 1 and "." not in source else None,
        tags=["fastft", "unsloth", "trl", recipe.get("method", "sft")],
    )
    return f"---\n{data.to_yaml()}\n---"


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe, with only the names of local files: folders of the machine are nobody's business."""
    if not path.is_file():
        return {}
    recipe = require_shape(read_yaml(path, ExportError, _PUT_BACK), _Recipe, path, ExportError, _PUT_BACK)
    return _without_folders(recipe)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _opening(kind: str, trained: Trained) -> str:
    base = _without_folders(trained.source.model_name)
    return f"{base}, fine-tuned with fastft: {_WHAT[kind]}."


def _how_to_run(kind: str, repository: str, folders: Sequence[Path]) -> str:
    name = folders[0].name.removeprefix("gguf-")
    if kind == "gguf":
        file = next(iter(sorted(folders[0].glob("*.gguf")))).name
        return (
            f"```sh\nollama run hf.co/{repository}:{name.upper()}\n"
            f"llama-server -hf {repository} --hf-file {file}\n```\n\n"
            f"Or `ollama create my-model -f Modelfile-{name}` in a copy of this repository."
        )
    if kind == "gguf_lora":
        return "```sh\nllama-server -m BASE.gguf --lora adapter-f32.gguf\n```"
    loader = "AutoPeftModelForCausalLM" if kind == "adapter" else "AutoModelForCausalLM"
    package = "peft" if kind == "adapter" else "transformers"
    return (
        "```python\n"
        f"from {package} import {loader}\nfrom transformers import AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")\n'
        f'model = {loader}.from_pretrained("{repository}", device_map="auto")\n'
        'messages = [{"role": "user", "content": "Hello!"}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")\n'
        "output = model.generate(**inputs.to(model.device), max_new_tokens=256)\n"
        "print(tokenizer.decode(output[0], skip_special_tokens=True))\n```"
    )


def _proof(folders: Sequence[Path]) -> str:
    lines = ["## Is it what was trained?", ""]
    for folder in folders:
        path = folder / "verification.json"
        if not path.is_file():
            lines.append(f"{folder.name}: not verified.")
            continue
        result = read_proof(path)
        verdict = "every check passed" if result["passed"] else "**some checks failed**"
        lines += [f"{folder.name}, loaded from disk and compared with {result['reference']}: {verdict}.", ""]
        lines += ["| check | found | allowed | |", "|---|---|---|---|"]
        lines += [_row(check) for check in result["checks"]]
        lines += ["", *proof_notes(folder)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(check: dict[str, Any]) -> str:
    cells = (check["name"], check["value"], check["threshold"], "ok" if check["passed"] else "FAILED")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _metrics(facts: dict[str, Any]) -> str:
    before, after = facts["evaluation"]["before"], facts["evaluation"]["after"]
    rows = [(name, before.get(key), after.get(key)) for key, name in _MEASURES.items() if after.get(key) is not None]
    if not rows:
        return ""
    table = ["| on held-out conversations | before | after |", "|---|---|---|"]
    table += [f"| {name} | {_number(first)} | {_number(second)} |" for name, first, second in rows]
    return "## Metrics\n\n" + "\n".join(table)


_MEASURES = {"loss": "loss", "perplexity": "perplexity", "exact_share": "exact answers"}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _data(facts: dict[str, Any], manifest: Path) -> str:
    try:
        return f"## Data\n\n{Audit.from_dict(facts).summary()}."
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ExportError(f"{manifest} can't be read: its data is not as training wrote it", hint=_PUT_BACK) from error


def _versions(facts: dict[str, Any]) -> str:
    versions = facts.get("versions", {})
    return "Made with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "." if versions else ""
