from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastft.exporters import check_export
from fastft.exporters.check import convertible_architectures
from fastft.recipe.schema import ExportSection

MERGED = ExportSection.model_validate({"formats": ["merged_16bit"]})
GGUF = ExportSection.model_validate({"formats": ["merged_16bit", "gguf"]})


@pytest.mark.parametrize("fixture", ["tiny", "qwen_tokenizer", "llama_tokenizer"])
def test_known_tokenizers_pass(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    assert check_export({"architectures": ["LlamaForCausalLM"]}, folder, GGUF) == []


def test_an_unknown_architecture_is_a_fault_only_of_gguf(tiny: Path) -> None:
    config = {"architectures": ["NovelForCausalLM"]}
    (fault,) = check_export(config, tiny, GGUF)
    assert "does not know the architecture NovelForCausalLM" in fault.found
    assert check_export(config, tiny, MERGED) == []
    assert check_export(config, tiny, ExportSection.model_validate({})) == []


def test_the_converter_lists_the_usual_architectures() -> None:
    usual = {"Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "Granite", "Olmo2", "SmolLM3"}
    assert {f"{name}ForCausalLM" for name in usual} <= convertible_architectures()


def test_a_pretokenizer_llama_cpp_lacks_is_a_fault(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (fault,) = check_export({"architectures": ["LlamaForCausalLM"]}, folder, GGUF)
    assert "its rule" in fault.found
    assert "none of llama.cpp's" in fault.found


def test_a_base_quantised_otherwise_is_a_fault(tiny: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}}
    (fault,) = check_export(config, tiny, GGUF)
    assert fault.found == "the base model is quantised with gptq"
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert check_export(config, tiny, GGUF) == []


def test_it_needs_neither_torch_nor_transformers(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fastft.exporters import check_export;"
        "from fastft.recipe.schema import ExportSection;"
        f"check_export({{'architectures': ['LlamaForCausalLM']}}, Path({str(tiny)!r}),"
        "ExportSection.model_validate({'formats': ['merged_16bit', 'gguf']}));"
        "print(sorted({'torch', 'transformers', 'unsloth', 'xllamacpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
