"""Models in plain transformers: log-probabilities, batches, answers, merging, and folders that are broken."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError
from fastft.inference import TextModel
from fastft.sampling import Sampling
from tests import small_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.shared_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def base(run: Path) -> Path:
    return run.parent / "base"


@pytest.fixture(scope="module")
def trained(run: Path, base: Path) -> TextModel:
    return TextModel.load(base, run / "adapter")


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> ChatTokenizer:
    return ChatTokenizer.load(run / "adapter")


@pytest.fixture(scope="module")
def prompts(tokenizer: ChatTokenizer) -> list[list[int]]:
    return [tokenizer.prompt_ids(small_model.conversation(*pair)[:1]) for pair in small_model.TAUGHT.items()]


def test_log_probabilities_are_normalised_and_of_every_position(trained: TextModel, prompts: list[list[int]]) -> None:
    found = trained.logprobs(prompts[0])
    assert found.shape == (len(prompts[0]), trained.vocabulary)
    assert torch.allclose(found.exp().sum(-1), torch.ones(len(found)), atol=1e-5)


def test_batched_scoring_equals_scoring_alone(
    trained: TextModel, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [trained.logprobs(ids) for ids in prompts]
    together = list(trained.logprobs_of(prompts))
    monkeypatch.setattr("fastft.inference._LOGITS_BYTES", 4 * trained.vocabulary * 40)
    in_pairs = list(trained.logprobs_of(prompts))
    assert {len(ids) for ids in prompts} != {len(prompts[0])}
    for one, two, three in zip(alone, together, in_pairs, strict=True):
        assert torch.allclose(one, two, atol=1e-4)
        assert torch.allclose(one, three, atol=1e-4)


def test_batched_answers_are_those_given_alone_in_the_order_asked(
    trained: TextModel, prompts: list[list[int]], tokenizer: ChatTokenizer
) -> None:
    together = trained.generate_batch(prompts, 24)
    assert [tokenizer.decode(answer.ids) for answer in together] == [f"It is {c}." for c in small_model.TAUGHT.values()]
    assert {answer.stop_reason for answer in together} == {"stop"}
    assert together == [trained.generate_batch([ids], 24)[0] for ids in prompts]
    assert [list(trained.stream(ids, 24)) for ids in prompts] == [answer.ids for answer in together]


def test_the_limit_and_other_stop_tokens_end_an_answer(trained: TextModel, prompts: list[list[int]]) -> None:
    whole = trained.generate_batch(prompts[:1], 24)[0]
    assert trained.generate_batch(prompts[:1], 2)[0].ids == whole.ids[:2]
    assert trained.generate_batch(prompts[:1], 2)[0].stop_reason == "length"
    assert trained.generate_batch(prompts[:1], 24, stop_ids=[whole.ids[2]])[0].ids == whole.ids[:2]
    assert list(trained.stream(prompts[0], 2)) == whole.ids[:2]


def test_sampling_varies_and_stays_within_the_vocabulary(trained: TextModel, prompts: list[list[int]]) -> None:
    answers = {tuple(trained.stream(prompts[0], 8, Sampling(temperature=5.0, seed=seed))) for seed in range(8)}
    assert len(answers) > 1
    assert max(itertools.chain(*answers)) < trained.vocabulary


def test_streaming_without_the_adapter_is_the_base_s_answer(
    trained: TextModel, base: Path, prompts: list[list[int]]
) -> None:
    alone = TextModel.load(base).generate_batch(prompts, 24)
    assert [list(trained.stream(ids, 24, without_adapter=True)) for ids in prompts] == [a.ids for a in alone]
    assert list(trained.stream(prompts[0], 24)) == trained.generate_batch(prompts[:1], 24)[0].ids != alone[0].ids


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.8, top_p=0.9, seed=5), Sampling(2.0, top_k=7, min_p=0.01, repetition_penalty=1.3, seed=5)],
)
def test_sampling_draws_what_generate_draws(trained: TextModel, prompts: list[list[int]], sampling: Sampling) -> None:
    """transformers' own `generate` with the same options, and torch's generator in the same state."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=8, do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
        min_p=sampling.min_p or None, repetition_penalty=sampling.repetition_penalty, eos_token_id=trained.stop_ids,
        pad_token_id=trained.pad_id,
    )  # fmt: skip
    torch.manual_seed(5)
    out = trained.model.generate(input_ids=torch.tensor([prompts[0]]), generation_config=settings)[0, len(prompts[0]) :]
    expected = [token for token in out.tolist() if token not in trained.stop_ids]
    assert list(trained.stream(prompts[0], 8, sampling)) == expected


def test_a_repetition_penalty_in_the_folder_does_not_change_greedy_answers(
    run: Path, tmp_path: Path, prompts: list[list[int]], tokenizer: ChatTokenizer
) -> None:
    folder = shutil.copytree(run / "exports" / "merged_16bit", tmp_path / "model")
    small_model.edit_json(folder / "generation_config.json", repetition_penalty=50.0, do_sample=True, temperature=9.0)
    answer = TextModel.load(folder).generate_batch(prompts[:1], 24)[0]
    assert tokenizer.decode(answer.ids) == "It is purple."


def test_adapter_s_generation_config_wins_over_the_base_s(run: Path, base: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    (adapter / "generation_config.json").write_text('{"eos_token_id": [2, 0], "pad_token_id": 0}')
    assert TextModel.load(base, adapter).stop_ids == [2, 0]
    assert TextModel.load(base, run / "adapter").stop_ids == [2]


def test_merged_weights_are_base_plus_scaled_product(run: Path, base: Path, trained: TextModel) -> None:
    from safetensors.torch import load_file

    weights, lora = load_file(base / "model.safetensors"), load_file(run / "adapter" / "adapter_model.safetensors")
    found = dict(trained.merged_weights())
    assert set(found) == set(weights)
    changed = 0
    for name, weight in weights.items():
        a = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        b = lora.get(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        delta = (32 / 8) * (b @ a) if a is not None and b is not None else torch.zeros(())
        changed += a is not None
        assert torch.allclose(found[name], weight.float() + delta, atol=1e-6), name
    assert changed == 14


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_merged_weights_of_every_lora_kind_are_peft_s_own_merge(base: Path, tmp_path: Path, options: dict) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, **options)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.5
    adapted.save_pretrained(str(tmp_path))
    model = TextModel.load(base, tmp_path)
    found = dict(model.merged_weights())
    model.merge("float32")
    expected = dict(model.model.named_parameters())
    assert set(found) == set(expected)
    for name, parameter in expected.items():
        assert torch.allclose(found[name], parameter, atol=1e-6), name


def test_merging_in_place_gives_the_exported_folder_s_distributions(
    run: Path, base: Path, prompts: list[list[int]]
) -> None:
    model = TextModel.load(base, run / "adapter")
    model.merge("bfloat16")
    exported = TextModel.load(run / "exports" / "merged_16bit")
    assert torch.equal(model.logprobs(prompts[0]), exported.logprobs(prompts[0]))


def test_a_folder_that_is_cut_short_is_named(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "exports" / "merged_16bit", tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"The model in {folder} can't be loaded"):
        TextModel.load(folder)


def test_missing_tensors_are_not_made_up(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(run / "exports" / "merged_16bit", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 tensors, the first model\.layers\.0\.mlp\.up_proj\.weight"):
        TextModel.load(folder)


def test_an_adapter_of_another_model_is_refused(run: Path, base: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    small_model.edit_json(adapter / "adapter_config.json", r=4)
    with pytest.raises(ModelError, match=r"The adapter in .* can't be loaded"):
        TextModel.load(base, adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        TextModel.load(base, adapter)


def test_an_adapter_that_would_be_loaded_in_part_is_refused(run: Path, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"does not fit its base: 28 LoRA weights have no counterpart"):
        TextModel.load(base, adapter)
