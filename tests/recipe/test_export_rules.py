"""The export section: types as people write them, and what does not go together with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastft.errors import RecipeError
from fastft.recipe.load import load_recipe
from fastft.recipe.schema import ExportSection

RECIPE = """\
model: {{model_name: fastft/tiny{model}}}
lora: {lora}
data: {{path: chats.jsonl}}
export: {{{export}}}
"""


@pytest.fixture
def load(tmp_path: Path):
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')

    def read(export: str, lora: str = "{r: 4}", model: str = "") -> ExportSection:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(export=export, lora=lora, model=model))
        return load_recipe(path).export

    return read


@pytest.mark.parametrize(
    ("types", "dtype", "meant"),
    [
        ("[Q4_K_M, q8_0, Q8_0]", "bfloat16", ("q4_k_m", "q8_0")),
        ("fast_quantized", "bfloat16", ("q8_0",)),
        ("[quantized, q4_k_m]", "bfloat16", ("q4_k_m",)),
        ("not_quantized", "bfloat16", ("bf16",)),
        ("not_quantized", "float16", ("f16",)),
        ("[f32, q6_k, q5_k_m, q5_k_s, q5_0, q4_k_s, q4_0, q3_k_m, q2_k]", "bfloat16",
         ("f32", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_s", "q4_0", "q3_k_m", "q2_k")),
    ],
)  # fmt: skip
def test_types_are_read_as_people_write_them(load, types: str, dtype: str, meant: tuple[str, ...]) -> None:
    section = load(f"formats: gguf, quantization_method: {types}, dtype: {dtype}")
    assert section.gguf_types == meant
    assert load("formats: merged_16bit").gguf_types == ()


@pytest.mark.parametrize(
    ("export", "lora", "model", "words"),
    [
        ("formats: [adapter]", "null", ", full_finetuning: true, load_in_4bit: false", "adapter without lora"),
        ("formats: [gguf_lora]", "{use_dora: true}", "", "gguf_lora with lora.use_dora"),
        ("formats: [gguf_lora]", "{modules_to_save: [lm_head]}", "", "gguf_lora with lora.modules_to_save"),
        ("formats: [gguf_lora]", "{bias: all}", "", "gguf_lora with lora.bias"),
        ("formats: [gguf, hub]", "{}", "", "no repository is named"),
        ("formats: [hub], hub_model_id: me/x", "{}", "", "found [hub] alone"),
        ("formats: [gguf], hub_model_id: me/x", "{}", "", "a repository without hub"),
        ("formats: [gguf, hub], hub_model_id: x", "{}", "", "a repository's name with its owner"),
        ("formats: [lora]", "{}", "", "Did you mean adapter?"),
        ("formats: [gguf], quantization_method: q3_k_l", "{}", "", "This type is not made"),
    ],
)
def test_what_does_not_go_together_is_told(load, export: str, lora: str, model: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(export, lora, model)
    assert words in str(caught.value)
    assert "recipe.yaml:4" in str(caught.value)


def test_formats_chosen_on_the_command_line_leave_the_file_s_types_behind(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(export="formats: [gguf], quantization_method: [q8_0]", lora="{r: 4}", model=""))
    recipe = load_recipe(path, ["export.formats=[merged_16bit]"])
    assert recipe.export.formats == ("merged_16bit",)
    with pytest.raises(RecipeError, match="without gguf in"):
        load_recipe(path, ["export.formats=[merged_16bit]", "export.quantization_method=[f16]"])
