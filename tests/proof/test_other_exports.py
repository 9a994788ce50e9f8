"""adapter, merged_4bit, gguf_lora and the lossy GGUF types: faithful ones pass, planted faults are caught and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastft.errors import ExportError
from fastft.exporters.gguf_lora import FILE
from fastft.recipe.schema import ExportSection
from fastft.verification import Verification, verify_export
from tests import small_model
from tests.exporters.making import make
from tests.exporters.models import save_adapter

pytestmark = pytest.mark.slow
LOSSY = ["f32", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k"]
OTHERS = ["adapter", "merged_4bit", "gguf_lora"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.shared_run(tmp_path_factory.getbasetemp()).parent / "base"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    faithful = small_model.shared_run(tmp_path_factory.getbasetemp())
    run = tmp_path_factory.mktemp("others") / "run"
    shutil.copytree(faithful, run, ignore=shutil.ignore_patterns("exports"))
    values = {"formats": ["merged_16bit", *OTHERS, "gguf"], "quantization_method": LOSSY, "verify": False}
    make(run, ExportSection.model_validate(values))
    return run


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy without the GGUF files, which are large and not touched here."""
    return Path(shutil.copytree(exported, tmp_path / "run", ignore=shutil.ignore_patterns("gguf-*")))


def failed(verification: Verification) -> dict[str, str]:
    return {check.name: str(check) for check in verification.failures}


@pytest.mark.parametrize("name", [*OTHERS, *(f"gguf-{kind}" for kind in LOSSY)])
def test_every_kind_of_export_is_proven(exported: Path, name: str) -> None:
    verification = verify_export(exported, name)
    assert failed(verification) == {}
    values = {check.name: check.value for check in verification.checks}
    assert values["exact held-out answers"].startswith("100% →")
    assert "held-out tokens" in values["perplexity"]


def test_the_base_s_type_is_read_from_its_weights(base: Path, tmp_path: Path) -> None:
    """Configs of older transformers call it torch_dtype."""
    from fastft.exporters.merged import copy_model
    from fastft.proof.gguf_lora import stored_dtype

    copy_model(base, tmp_path / "half", "float16")
    small_model.edit_json(tmp_path / "half" / "config.json", dtype="bfloat16")
    assert stored_dtype(tmp_path / "half") == "float16"


def _edit_tensors(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], object]:
    def edit(exports: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(exports / name)
        change(tensors)
        save_file(tensors, exports / name, metadata={"format": "pt"})

    return edit


def _zero_updates(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def _edit_json(name: str, **values: Any) -> Callable[[Path], object]:
    return lambda exports: small_model.edit_json(exports / name, **values)


def _cut(name: str) -> Callable[[Path], object]:
    return lambda exports: (exports / name).write_bytes((exports / name).read_bytes()[:-2000])


def _unscaled_lora(exports: Path) -> None:
    """What llama.cpp's converter writes by itself is right for plain LoRA; with an alpha of another it is not."""
    data = (exports / "gguf_lora" / FILE).read_bytes()
    key = b"adapter.lora.alpha"
    at = data.index(key) + len(key) + 4  # the value's type comes between
    import struct

    (exports / "gguf_lora" / FILE).write_bytes(data[:at] + struct.pack("<f", 1.0) + data[at + 4 :])


def _swap_4bit(tensors: dict[str, Any]) -> None:
    first, second = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    for ending in ("", *(name.removeprefix(first) for name in list(tensors) if name.startswith(f"{first}."))):
        tensors[first + ending], tensors[second + ending] = tensors[second + ending], tensors[first + ending]


ADAPTER, FOUR = "adapter/adapter_model.safetensors", "merged_4bit/model.safetensors"
# what to do to exports/, the export, the check that must fail, what it must say
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "adapter that does nothing": (_edit_tensors(ADAPTER, _zero_updates), "adapter", "greedy answers", "the reference"),
    "adapter of another scale": (
        _edit_json("adapter/adapter_config.json", lora_alpha=31), "adapter", "KL divergence", "largest at",
    ),
    "adapter cut short": (_cut(ADAPTER), "adapter", "can be examined", "can't be loaded"),
    "adapter without its template": (
        lambda exports: (exports / "adapter" / "chat_template.jinja").unlink(), "adapter", "files", "jinja is gone",
    ),
    "4-bit model with another template": (
        lambda exports: (exports / "merged_4bit" / "chat_template.jinja").write_text(
            small_model.CHATML.replace("<|im_end|>", "<|endoftext|>")
        ),
        "merged_4bit", "prompt text", "<|endoftext|>",
    ),
    "4-bit model that can't stop": (
        _edit_json("merged_4bit/generation_config.json", eos_token_id=0), "merged_4bit", "stops", "no stop token",
    ),
    "4-bit layers swapped": (_edit_tensors(FOUR, _swap_4bit), "merged_4bit", "KL divergence", "largest at"),
    "4-bit model cut short": (_cut(FOUR), "merged_4bit", "can be examined", "safetensors"),
    "LoRA for llama.cpp unscaled": (_unscaled_lora, "gguf_lora", "greedy answers", "the reference"),
    "LoRA for llama.cpp cut short": (_cut(f"gguf_lora/{FILE}"), "gguf_lora", "loads", "llama.cpp can't put"),
    "LoRA for llama.cpp gone": (
        lambda exports: (exports / "gguf_lora" / FILE).unlink(), "gguf_lora", "loads", "There is no file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught_and_named(run: Path, fault: str) -> None:
    plant, name, check, words = FAULTS[fault]
    plant(run / "exports")
    verification = verify_export(run, name)
    assert not verification.passed
    assert check in failed(verification), failed(verification)
    assert words in failed(verification)[check]


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "lora_alpha": 32},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 64, "down_proj": 2}, "lora_alpha": 16},
    ],
)
def test_a_lora_for_llama_cpp_has_every_layer_s_own_scale(base: Path, tmp_path: Path, options: dict) -> None:
    adapter = tmp_path / "adapter"
    save_adapter(base, adapter, base, r=8, target_modules=["q_proj", "v_proj", "down_proj"], **options)
    (folder,) = make(adapter, ExportSection.model_validate({"formats": ["gguf_lora"]}))
    verification = json.loads((folder / "verification.json").read_text())
    assert verification["passed"], verification


@pytest.mark.parametrize(
    ("options", "words"), [({"use_dora": True}, "does more to"), ({"modules_to_save": ["lm_head"]}, "does more to")]
)
def test_what_llama_cpp_can_t_hold_is_refused(base: Path, tmp_path: Path, options: dict, words: str) -> None:
    adapter = tmp_path / "adapter"
    save_adapter(base, adapter, base, r=4, target_modules=["q_proj"], **options)
    with pytest.raises(ExportError, match=words) as caught:
        make(adapter, ExportSection.model_validate({"formats": ["gguf_lora"]}))
    assert "merged_16bit" in caught.value.hint
    assert [path.name for path in (adapter / "exports").iterdir()] == ["export.log"]
