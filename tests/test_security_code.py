"""Pickles and Python files that come with a model, adapter or checkpoint, or lie about: none is run."""

from __future__ import annotations

import io
import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fastft import train as fastft_train
from fastft.checking import check
from fastft.checkpoints import seal
from fastft.errors import ModelError, RecipeError, TrainingError
from fastft.files import sha256_of
from fastft.model_code import check_model_code, code_sha256, forbid_model_code, require_safetensors
from fastft.recipe.load import load_recipe
from fastft.recipe.schema import ModelSection
from fastft.rewards.function_files import load_name
from tests.planted import copy_tiny, edit_json, fastft, plant_code, plant_pickle, refused
from tests.short_runs import recipe_of, train, write_chats

_AUTO_MAP = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Net"}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "MARK"


@pytest.fixture
def pickled(tiny: Path, tmp_path: Path, mark: Path) -> Path:
    """A model whose weights are a pickle with a program in it."""
    folder = copy_tiny(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    plant_pickle(folder / "pytorch_model.bin", mark)
    return folder


@pytest.fixture
def coded(tiny: Path, tmp_path: Path, mark: Path) -> Path:
    """A model of a kind of its own, with the code for it."""
    folder = copy_tiny(tiny, tmp_path / "coded")
    edit_json(folder / "config.json", model_type="planted", auto_map=_AUTO_MAP)
    plant_code(folder / "modeling.py", mark)
    return folder


def _recipe(tmp_path: Path, model: Path | str, **sections: object) -> Path:
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), **sections)
    recipe["model"]["model_name"] = str(model)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"output_dir": str(tmp_path / "run")}))
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "weights.pkl"])
def test_weights_in_a_pickle_are_refused_with_how_to_convert_them(tmp_path: Path, mark: Path, name: str) -> None:
    plant_pickle(tmp_path / name, mark, plain=True)
    with pytest.raises(ModelError, match=f"{name}, a pickle, and no \\*.safetensors") as raised:
        require_safetensors(tmp_path)
    assert "weights_only=True" in raised.value.hint
    (tmp_path / "model.safetensors").touch()
    require_safetensors(tmp_path)
    assert not mark.exists()


def test_a_pickle_beside_other_safetensors_is_refused(tmp_path: Path, mark: Path) -> None:
    """transformers and PEFT look for files by name: others in the folder don't keep them from the pickle."""
    plant_pickle(tmp_path / "pytorch_model.bin", mark)
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        require_safetensors(tmp_path)
    (tmp_path / "model-00001-of-00001.safetensors").touch()
    require_safetensors(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    plant_pickle(tmp_path / "adapter_model.bin", mark)
    with pytest.raises(ModelError, match=r"adapter_model\.bin, a pickle"):
        require_safetensors(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    require_safetensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "pytorch_model.bin"}}')
    with pytest.raises(ModelError, match=r"names 'pytorch_model\.bin': weights are read from \*\.safetensors alone"):
        require_safetensors(tmp_path)
    assert not mark.exists()


def test_a_recipes_code_is_the_file_and_no_cache_beside_it(tmp_path: Path, mark: Path) -> None:
    """A compiled file may claim to be of any source: Python would run it, and the sha256 that is told be another's."""
    planted, code = tmp_path / "planted.py", tmp_path / "score.py"
    plant_code(planted, mark)
    code.write_text("def length(completions, **_):\n    return [1.0 for _ in completions]\n")
    cached = Path(cache_from_source(str(code)))
    py_compile.compile(str(planted), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    before = cached.read_bytes()
    assert load_name(f"{code}:length")(["a"]) == [1.0]
    assert not mark.exists()
    cached.unlink()
    load_name(f"{code}:length")
    assert (before[:4], list(cached.parent.iterdir())) == (MAGIC_NUMBER, [])


@pytest.mark.slow
def test_check_and_chat_refuse_a_pickled_model(pickled: Path, tmp_path: Path, mark: Path) -> None:
    refused(fastft("check", _recipe(tmp_path, pickled), cwd=tmp_path), "pytorch_model.bin, a pickle")
    refused(fastft("chat", pickled, cwd=tmp_path, answers="Hi"), "pytorch_model.bin, a pickle")
    refused(fastft("eval", pickled, "--data", tmp_path / "chats.jsonl", cwd=tmp_path), "pytorch_model.bin, a pickle")
    refused(fastft("serve", pickled, cwd=tmp_path), "pytorch_model.bin, a pickle")
    assert not mark.exists()


@pytest.mark.slow
def test_a_pickled_adapter_is_refused(tiny: Path, tmp_path: Path, mark: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny), "r": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    plant_pickle(adapter / "adapter_model.bin", mark)
    recipe = _recipe(tmp_path, tiny, lora={"adapter_name_or_path": str(adapter)})
    refused(fastft("check", recipe, cwd=tmp_path), "adapter_model.bin, a pickle")
    refused(fastft("chat", adapter, cwd=tmp_path, answers="Hi"), "adapter_model.bin, a pickle")
    evaluated = fastft("eval", adapter, "--data", tmp_path / "chats.jsonl", cwd=tmp_path)
    refused(evaluated, "adapter_model.bin, a pickle")
    assert "base" not in evaluated.stdout  # the base is not evaluated first, to no end
    done = fastft("export", adapter, "--format", "merged_16bit", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    edit_json(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="planted")
    (adapter / "adapter_model.bin").unlink()
    plant_code(tmp_path / "planted.py", mark)
    refused(fastft("chat", adapter, cwd=tmp_path, answers="Hi"), "megatron_config, which names a module")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pt", "rows.npy", "rows.py"])
def test_pickles_and_code_are_no_data(tmp_path: Path, mark: Path, name: str) -> None:
    recipe = yaml.safe_load(_recipe(tmp_path, "fastft/tiny").read_text())
    plant_pickle(tmp_path / name, mark, plain=True)
    with pytest.raises(RecipeError):
        load_recipe({**recipe, "data": {"path": str(tmp_path / name)}})
    folder = tmp_path / "set"
    folder.mkdir()
    plant_code(folder / "set.py", mark)
    plant_pickle(folder / name, mark, plain=True)
    with pytest.raises(RecipeError):
        load_recipe({**recipe, "data": {"path": str(folder)}})
    assert not mark.exists()


@pytest.mark.slow
def test_a_models_code_is_refused_until_the_recipe_names_it(coded: Path, tmp_path: Path, mark: Path) -> None:
    told = f"model.trust_remote_code: coded@{code_sha256(coded)}"
    refused(fastft("check", _recipe(tmp_path, coded), cwd=tmp_path, answers="y\n" * 9), "modeling.py", told)
    refused(fastft("chat", coded, cwd=tmp_path, answers="y\n" * 9), "needs modeling.py")
    assert not mark.exists()


def test_a_models_code_is_allowed_by_name_and_content(coded: Path, mark: Path) -> None:
    base = {"data": {"path": "a/b"}, "lora": {"r": 8}, "training": {"max_steps": 1}}

    def model(trust: object) -> ModelSection:
        section = {"model_name": str(coded), "trust_remote_code": trust}
        return load_recipe({**base, "model": section}).model

    allowed = f"coded@{code_sha256(coded)}"
    assert check_model_code(model(allowed), coded) == (f"this recipe runs code that comes with the model: {allowed}",)
    with pytest.raises(ModelError, match=r"allows coded@0{64}, and the model's code is coded@"):
        check_model_code(model("coded@" + "0" * 64), coded)
    (coded / "modeling.py").write_text("class Net: ...\n")
    with pytest.raises(ModelError, match="and the model's code is"):
        check_model_code(model(allowed), coded)
    for trust in (True, "coded", "coded@main", "yes", 1):
        with pytest.raises(RecipeError, match="trust_remote_code"):
            model(trust)
    section = {"model_name": str(coded), "trust_remote_code": allowed}
    with pytest.raises(RecipeError, match="no exports"):
        load_recipe({**base, "model": section, "export": {"formats": ["merged_16bit"]}})
    edit_json(coded / "config.json", auto_map={"AutoConfig": "owner/other--modeling.Config"})
    with pytest.raises(ModelError, match="needs code of another repository: owner/other"):
        check_model_code(model(allowed), coded)
    assert not mark.exists()


@pytest.mark.slow
def test_code_that_is_not_needed_is_told_and_not_run(coded: Path, tmp_path: Path, mark: Path) -> None:
    edit_json(coded / "config.json", model_type="llama")
    edit_json(coded / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokens.Net", "tokens.Net"]})
    plant_code(coded / "tokens.py", mark)
    plant_code(coded / "custom_generate" / "generate.py", mark)
    done = fastft("check", _recipe(tmp_path, coded), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "brings code (modeling.py, tokens.py); it isn't run" in done.stdout
    done = fastft("chat", coded, cwd=tmp_path, answers="Hi")
    assert done.returncode == 0, done.stderr
    edit_json(coded / "tokenizer_config.json", tokenizer_class="PlantedTokenizer")
    refused(fastft("check", _recipe(tmp_path, coded), cwd=tmp_path), "needs tokens.py")
    assert not mark.exists()


@pytest.mark.slow
def test_a_kernel_from_elsewhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copy_tiny(tiny, tmp_path / "kernel")
    edit_json(folder / "config.json", attn_implementation="someone/attention")
    refused(fastft("check", _recipe(tmp_path, folder), cwd=tmp_path), "attn_implementation is 'someone/attention'")
    refused(fastft("chat", folder, cwd=tmp_path, answers="Hi"), "attn_implementation is 'someone/attention'")


_CONVERTER = """
import sys
from pathlib import Path
from fastft.errors import FastftError
from fastft.exporters.gguf import rehearse
for folder in map(Path, sys.argv[1:]):
    try:
        rehearse(folder, folder, (folder / "chat_template.jinja").read_text())
        print(folder.name, "converts")
    except FastftError as error:
        print(folder.name, "refused:", error)
"""


@pytest.mark.slow
def test_the_converter_runs_no_tokenizers_code(tiny: Path, tmp_path: Path, mark: Path) -> None:
    """llama.cpp's asks for tokenizers with trust_remote_code=True."""
    folders = [tmp_path / "known", tmp_path / "unknown"]
    for folder in folders:
        copy_tiny(tiny, folder)
        edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokens.Net", "tokens.Net"]})
        plant_code(folder / "tokens.py", mark)
    edit_json(folders[1] / "tokenizer_config.json", tokenizer_class="PlantedTokenizer")
    command = [sys.executable, "-c", _CONVERTER, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("known converts\nunknown refused: ")
    assert not mark.exists()


@pytest.mark.slow
def test_nobody_in_the_process_can_have_it_run(coded: Path, mark: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    forbid_model_code()
    with pytest.raises(ValueError, match="custom code"):
        AutoConfig.from_pretrained(coded, trust_remote_code=True)
    with pytest.raises(ModelError, match=r"modeling\.py is code that comes with a model, and no recipe allows it"):
        get_class_from_dynamic_module("modeling.Net", str(coded))
    edit_json(coded / "tokenizer_config.json", tokenizer_class="X", auto_map={"AutoTokenizer": ["modeling.Net", None]})
    with pytest.raises(ValueError, match="custom code"):
        AutoTokenizer.from_pretrained(coded)
    assert not mark.exists()


_SHADOWS = (
    "torch", "trl", "unsloth", "transformers", "yaml", "click", "jinja2", "numpy", "rich", "sitecustomize", "signal",
)  # fmt: skip


@pytest.mark.slow
def test_the_current_folder_is_nowhere_imported_from(tmp_path: Path, mark: Path) -> None:
    """Training, export and its worker, in a folder with files named as what is imported."""
    folder = tmp_path / "here"
    for name in _SHADOWS:
        plant_code(folder / f"{name}.py", mark)
    plant_code(folder / "unsloth_compiled_cache" / "UnslothSFTTrainer.py", mark)
    plant_code(folder / "unsloth_compiled_cache" / "__init__.py", mark)
    recipe = _recipe(tmp_path, "fastft/tiny", training={"max_steps": 1}, export={"formats": ["gguf"], "verify": False})
    done = fastft("train", recipe, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "run" / "exports").glob("*/*.gguf"))
    assert not mark.exists()


def test_python_m_takes_nothing_from_the_current_folder(tmp_path: Path, mark: Path) -> None:
    for name in ("click", "yaml", "rich"):
        plant_code(tmp_path / f"{name}.py", mark)
    command = [sys.executable, "-m", "fastft", "check", str(_recipe(tmp_path, "fastft/tiny"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not mark.exists()


@pytest.mark.slow
def test_a_checkpoint_from_elsewhere_runs_nothing(tmp_path: Path, mark: Path) -> None:
    """Its manifest may be in order: whoever planted it can hash, too."""
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), training={"max_steps": 3, "save_steps": 1})
    whole = train(recipe, tmp_path / "run")
    whole.manifest_path.unlink()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "fastft_state.pt", "training_args.bin"):
        run = tmp_path / name
        shutil.copytree(whole.directory, run)
        for checkpoint in (run / "checkpoints").glob("checkpoint-*"):
            plant_pickle(checkpoint / name, mark)
            seal(checkpoint, int(checkpoint.name.rpartition("-")[2]))
        if name in ("rng_state.pth", "training_args.bin"):  # which nobody reads in this run
            train(recipe, run, resume=True)
        else:
            with pytest.raises(TrainingError, match="holds more than numbers, which a program could hide in"):
                train(recipe, run, resume=True)
        assert not mark.exists(), name


_WATCH = "from transformers import TrainerCallback\n\nclass Watch(TrainerCallback):\n    pass\n"


@pytest.mark.slow
def test_a_recipes_own_code_is_told_kept_and_its_change_noticed(tmp_path: Path) -> None:
    code = tmp_path / "watch.py"
    code.write_text(_WATCH)
    first = sha256_of(code)
    named = f"{code}:Watch"
    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"), callbacks=[named], training={"max_steps": 1})
    assert f"this recipe runs code: watch.py:Watch (sha256 {first[:12]}…)" in check(recipe).warnings
    run = train(recipe, tmp_path / "run")
    assert run.manifest()["code"] == [{named: first}]
    run.manifest_path.unlink()
    code.write_text(_WATCH + "# changed\n")
    said = io.StringIO()
    fastft_train(recipe, output_dir=tmp_path / "run", resume=True, console=Console(file=said, width=500))
    assert f"! {named} was changed since this run began" in said.getvalue()
    assert run.manifest()["code"] == [{named: first}, {named: sha256_of(code)}]


def test_a_recipe_without_code_says_nothing_of_code(tmp_path: Path) -> None:
    warnings = check(recipe_of(write_chats(tmp_path / "chats.jsonl"))).warnings
    assert [warning for warning in warnings if "code" in warning] == []
