"""What of a model could run as code on this machine, and what keeps it from that.

Weights are read from safetensors alone: a pickle (*.bin, *.pt) can hold a program. Python files that come with a model
run only where the recipe names the model and the revision of them (`model.trust_remote_code: NAME@REVISION`), and only
while training. `forbid_model_code` makes transformers keep to that, whoever calls it: llama.cpp's converter, for one,
asks for tokenizers with their code.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError
from fastft.files import at_home, is_folder

if TYPE_CHECKING:
    from fastft.recipe.schema import ModelSection

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
_READS_ITSELF = ("PreTrainedTokenizerFast", "TokenizersBackend")
_KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal",
                "experts_implementation", "_experts_implementation", "_experts_implementation_internal")  # fmt: skip
_permitted: set[str] = set()  # sha256 of files that may run in this process, and commits of the Hub


def require_safetensors(folder: Path) -> None:
    """Raises ModelError for a model or adapter that has weights, and none that can be read without running code."""
    from fastft.run_files import read_weight_index

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        read_weight_index(index, ModelError)  # refuses files that lie elsewhere, or are of another kind
    pickles = sorted(path for kind in _PICKLES for path in folder.glob(kind) if path.name not in _NOT_WEIGHTS)
    adapter = (folder / "adapter_config.json").is_file()
    first = next((path for path in pickles if not _is_beside_its_safetensors(path, adapter)), None)
    if first is None:
        return
    raise ModelError(
        f"{folder} holds its weights as {first.name}, a pickle, and no *.safetensors of them: a pickle can hold a "
        "program that runs when it is read, so it isn't",
        hint="Convert it where you trust it, with weights_only: "
        + (
            'save_file(torch.load("adapter_model.bin", weights_only=True), "adapter_model.safetensors").'
            if adapter
            else 'AutoModelForCausalLM.from_pretrained(FOLDER, weights_only=True).save_pretrained("converted").'
        ),
    )


def _is_beside_its_safetensors(pickle: Path, adapter: bool) -> bool:
    """Whether libraries read other files of the folder in place of `pickle`: those they look for by these names."""
    of_adapter = pickle.name.startswith("adapter_model")
    wanted = [*(["model*"] if not of_adapter else []), *(["adapter_model*"] if adapter else [])]
    return any(True for name in wanted for _ in pickle.parent.glob(f"{name}.safetensors"))


def require_adapter_weights(adapter: Path) -> None:
    """Raises ModelError for a LoRA with weights in a pickle, or a config that has PEFT import a module by name."""
    require_safetensors(adapter)
    if _object(adapter / "adapter_config.json").get("megatron_config"):
        raise ModelError(
            f"{adapter / 'adapter_config.json'} has a megatron_config, which names a module to be imported"
        )


def needed_code(folder: Path) -> str | None:
    """The Python file without which transformers can't read config or tokenizer in `folder`, or None.

    Raises ModelError if config.json has transformers fetch a compiled kernel, which is code from elsewhere too.
    """
    config = _object(folder / "config.json")
    _refuse_kernels(config, folder)
    return _config_code(config) or _tokenizer_code(_object(folder / "tokenizer_config.json"))


def unused_code(folder: Path) -> list[str]:
    """The Python files that config and tokenizer name, where transformers has classes of its own for both."""
    named = [_object(folder / name).get("auto_map") for name in ("config.json", "tokenizer_config.json")]
    return sorted({file for auto_map in named for file in _files_of(auto_map)})


def refuse_model_code(folder: Path) -> None:
    """Raises ModelError if the model in `folder` can't be read without code of its own, where none may run."""
    if file := needed_code(folder):
        raise ModelError(
            f"{folder} needs {file}, code that comes with the model, and that runs while training only, from a recipe "
            "that names it",
            hint="Use it with its own library, or take a model that transformers knows.",
        )


def check_model_code(model: ModelSection, folder: Path) -> tuple[str, ...]:
    """What `check` tells of code that comes with the recipe's model.

    Raises ModelError if it needs code that the recipe doesn't allow by name and revision, or allows other code.
    """
    require_safetensors(folder)
    file, trusted = needed_code(folder), model.trust_remote_code
    if file is None and not trusted:
        files = ", ".join(unused_code(folder))
        told = f"the model's folder brings code ({files}); it isn't run: transformers' own classes are"
        return (told,) if files else ()
    if file is not None and "--" in file:
        raise ModelError(
            f"{model.model_name} needs code of another repository: {file.partition('--')[0]}",
            hint="Only code that lies with the model can be allowed. Download it, put both into one folder.",
        )
    permission = permission_of(model, folder)
    if trusted == permission:
        return (f"this recipe runs code that comes with the model: {trusted}",)
    if not trusted:
        raise ModelError(
            f"{model.model_name} needs {file}, code that comes with the model, and it would run on this machine",
            hint=f"Read it. To allow just that: model.trust_remote_code: {permission}",
        )
    raise ModelError(
        f"model.trust_remote_code allows {trusted}, and the model's code is {permission}",
        hint="Read what it is now, and name that; or leave the key out.",
    )


def permission_of(model: ModelSection, folder: Path) -> str:
    """NAME@REVISION as a recipe has to say it: the Hub's commit, or sha256 over a local folder's Python files."""
    local = at_home(model.model_name)
    if local.is_dir():
        return f"{local.name}@{code_sha256(folder)}"
    commit = folder.name if folder.parent.name == "snapshots" else model.revision
    return f"{model.model_name}@{commit}"


def code_sha256(folder: Path) -> str:
    """Of the names and contents of all Python files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def trusted_options(model: ModelSection, folder: Path) -> dict[str, Any]:
    """`from_pretrained`'s arguments for the recipe's model; what the recipe allows may run in this process from now on.

    Raises ModelError as `check_model_code`.
    """
    check_model_code(model, folder)
    forbid_model_code()
    if not model.trust_remote_code:
        return {"trust_remote_code": False, "use_safetensors": True}
    revision = model.trust_remote_code.rpartition("@")[2]
    if is_folder(model.model_name):
        _permitted.update(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.py"))
        return {"trust_remote_code": True, "use_safetensors": True}
    _permitted.add(revision)
    return {"trust_remote_code": True, "use_safetensors": True, "revision": revision}


def forbid_model_code() -> None:
    """Let transformers run no Python file of a model in this process but those that `trusted_options` allowed.

    Nor ask on the terminal, as it does where nothing was said.
    """
    from transformers import dynamic_module_utils as theirs

    if theirs.resolve_trust_remote_code is _resolved:
        return
    _theirs.update(resolve=theirs.resolve_trust_remote_code, load=theirs.get_class_in_module)
    for name, ours in (("resolve_trust_remote_code", _resolved), ("get_class_in_module", _loaded)):
        for module in [module for key, module in sys.modules.items() if key.startswith("transformers.")]:
            if name in vars(module):  # others imported it by its name
                setattr(module, name, ours)


_theirs: dict[str, Any] = {}


def _resolved(trust_remote_code: bool | None, *args: Any, **kwargs: Any) -> bool:
    return _theirs["resolve"](bool(trust_remote_code and _permitted), *args, **kwargs)


def _loaded(class_name: str, module_path: Any, **kwargs: Any) -> Any:
    from transformers.dynamic_module_utils import get_relative_import_files
    from transformers.utils.hub import HF_MODULES_CACHE

    file = Path(HF_MODULES_CACHE) / module_path
    files = [file, *map(Path, get_relative_import_files(file))]
    by_content = {hashlib.sha256(one.read_bytes()).hexdigest() for one in files} <= _permitted
    if not by_content and _permitted.isdisjoint(Path(module_path).parts):
        raise ModelError(f"{Path(module_path).name} is code that comes with a model, and no recipe allows it")
    return _theirs["load"](class_name, module_path, **kwargs)


def _config_code(config: Mapping[str, Any]) -> str | None:
    files = _files_of(config.get("auto_map"))
    if not files:
        return None
    from transformers.models.auto.configuration_auto import (
        CONFIG_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
    )

    return None if config.get("model_type") in CONFIG_MAPPING_NAMES else files[0]


def _tokenizer_code(config: Mapping[str, Any]) -> str | None:
    files, name = _files_of(config.get("auto_map")), config.get("tokenizer_class")
    if not files or name is None or name in _READS_ITSELF:
        return None
    import transformers

    known = dir(transformers)  # it imports lazily, and lists what it could
    return None if {name, f"{name}Fast", str(name).removesuffix("Fast")} & set(known) else files[0]


def _files_of(auto_map: Any) -> list[str]:
    """ "modeling.Net" stands for modeling.py, "owner/name--modeling.Net" for that of another repository."""
    values = auto_map.values() if isinstance(auto_map, Mapping) else ()
    named = [one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])]
    return [f"{name.rpartition('.')[0]}.py" for name in named if isinstance(name, str)]


def _refuse_kernels(config: Mapping[str, Any], folder: Path) -> None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for key in _KERNEL_KEYS:
            named = part.get(key)
            values = list(named.values()) if isinstance(named, Mapping) else [named]
            if any(isinstance(value, str) and "/" in value for value in values):
                raise ModelError(
                    f"{folder / 'config.json'}: {key} is {named!r}, compiled code that transformers would fetch",
                    hint="Take the key out: transformers then computes that itself.",
                )


def _object(path: Path) -> Mapping[str, Any]:
    from fastft.data.tokenizer_files import read_json

    return read_json(path)
