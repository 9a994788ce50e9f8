"""`fastft profile`, run for real; and what operations are taken for, by names as profilers give them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastft.profile_kinds import REST, kind_of
from tests.short_runs import recipe_of, write_chats, write_pairs


@pytest.mark.parametrize(
    ("name", "callers", "kind"),
    [
        ("aten::mm", [], "matmul"),
        ("aten::addmm", ["autograd::engine::evaluate_function: AddmmBackward0"], "matmul"),
        ("aten::mm", ["aten::matmul", "Optimizer.step#Muon.step"], "optimiser"),
        ("aten::bmm", ["aten::scaled_dot_product_attention"], "attention"),
        ("aten::mul", ["bitsandbytes::dequantize_4bit"], "dequantisation"),
        ("aten::index_select", ["aten::cross_entropy_loss"], "cross entropy"),
        ("aten::stack", ["enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"], "data"),
        ("aten::mul", ["MulBackward0"], "norm, rope, elementwise"),
        ("aten::copy_", ["aten::to"], "copies"),
        ("aten::view", [], REST),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", [], "matmul"),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", [], "matmul"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>(Params)", [], "matmul"),
        ("void flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits>", [], "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::Params)", [], "attention"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", [], "dequantisation"),
        ("_chunked_cross_entropy_forward", [], "cross entropy"),
        ("_rms_layernorm_forward", [], "norm, rope, elementwise"),
        ("_rope_embedding_QK", [], "norm, rope, elementwise"),
        ("_fg_kernel_swiglu", [], "norm, rope, elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", [],
         "norm, rope, elementwise"),
        ("void kOptimizerStatic8bit2StateBlockwise<float, 0, 256, 1>", [], "optimiser"),
        ("Memcpy HtoD (Pinned -> Device)", [], "copies"),
        ("cudaLaunchKernel", [], REST),
    ],
)  # fmt: skip
def test_an_operation_is_known_by_its_name_and_what_it_is_within(name: str, callers: list[str], kind: str) -> None:
    assert kind_of(name, callers) == kind


def _profile(recipe: dict[str, object], folder: Path) -> str:
    from fastft.cli import main

    path = folder / "recipe.yaml"
    path.write_text(json.dumps({**recipe, "output_dir": str(folder / "run")}))
    done = CliRunner().invoke(main, ["profile", str(path), "--steps", "2", "--out", str(folder / "profile")])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_steps_of_a_recipe_are_profiled(tmp_path: Path) -> None:
    shown = _profile(recipe_of(write_chats(tmp_path / "chats.jsonl")), tmp_path)
    for label in (
        "2 steps of ",
        "tokens/s",
        "matmul",
        "attention",
        "dequantisation",
        "optimiser",
        REST,
        "peak",
        "trace",
    ):
        assert label in shown, label
    assert {path.name for path in tmp_path.iterdir()} == {"chats.jsonl", "recipe.yaml", "profile"}  # no run directory
    assert {path.name for path in (tmp_path / "profile").iterdir()} == {"trace.json.gz", "profile.log"}
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#0", "ProfilerStep#1"}
    assert any(event.get("name") == "aten::mm" for event in events)


def test_what_kinds_take_adds_up_to_the_steps(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from fastft.profiling import profile

    recipe = recipe_of(write_chats(tmp_path / "chats.jsonl"))
    found = profile(recipe, steps=3, out=tmp_path / "profile", console=Console(file=io.StringIO()))
    assert sum(kind.seconds for kind in found.kinds) == pytest.approx(found.seconds, rel=0.1)
    assert not found.on_gpu
    assert found.rates["measured_steps"] == 4  # the first of those to warm up, and those profiled
    parts = {name: held for name, held in found.memory.items() if name != "peak"}
    assert sum(parts.values()) == found.memory["peak"]
    assert found.memory["optimiser"] == pytest.approx(2 * found.memory["trained weights"], rel=0.01)  # Adam's moments


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_other_methods_are_profiled_too(tmp_path: Path, method: str) -> None:
    recipe = recipe_of(write_pairs(tmp_path / "pairs.jsonl"), method=method)
    assert "matmul" in _profile(recipe, tmp_path)
