"""What is counted of the steps that are really taken, to the token; and what it is made into."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fastft
from fastft.errors import TrainingError
from fastft.throughput import Meter, Window
from tests.short_runs import recipe_of, train, write_chats, write_pairs


def _points(run: fastft.Run) -> list[dict[str, Any]]:
    return [point for point in run.metrics() if "loss" in point]


def _train_counts(run: fastft.Run) -> dict[str, Any]:
    return run.manifest()["data"]["train"]


def _assert_whole_epoch(run: fastft.Run, *, epochs: int = 1) -> None:
    """Every real token, and every supervised one, was counted once an epoch."""
    audited, points = _train_counts(run), _points(run)
    assert sum(p["tokens"] for p in points) == epochs * audited["tokens"]
    assert sum(p["supervised_tokens"] for p in points) == epochs * audited["supervised"]
    told = run.manifest()["training"]
    assert told["tokens"] == epochs * audited["tokens"]
    assert told["supervised_tokens"] == epochs * audited["supervised"]
    assert told["measured_steps"] == told["steps"] == points[-1]["step"]


def _epochs(number: int, **training: Any) -> dict[str, Any]:
    return {"max_steps": -1, "num_train_epochs": number, **training}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.mark.parametrize(
    "training",
    [
        pytest.param({}, id="as fastft feeds it"),
        pytest.param({"gradient_accumulation_steps": 3}, id="accumulated"),
        pytest.param({"packing": True, "per_device_train_batch_size": 1}, id="packed"),
        pytest.param({"logging_steps": 2}, id="logged every other step"),
    ],
)
def test_every_token_is_counted_once_an_epoch(chats: Path, tmp_path: Path, training: dict[str, Any]) -> None:
    run = train(recipe_of(chats, training=_epochs(2, **training)), tmp_path / "run")
    _assert_whole_epoch(run, epochs=2)
    for point in _points(run):
        assert point["tokens_per_second"] > point["supervised_tokens_per_second"] > 0
        assert 0 <= point["data_wait"] < 1
        assert point["padding"] < 0.02
        assert point["peak_memory"] > 1e8
        assert "mfu" not in point  # a CPU has no datasheet rate


@pytest.mark.parametrize("method", ["dpo", "orpo", "cpo"])
def test_both_answers_of_a_pair_are_counted(pairs: Path, tmp_path: Path, method: str) -> None:
    run = train(recipe_of(pairs, method=method, training=_epochs(1)), tmp_path / "run")
    _assert_whole_epoch(run)


def test_a_reward_model_has_no_supervised_tokens_and_says_none(pairs: Path, tmp_path: Path) -> None:
    run = train(recipe_of(pairs, method="reward", training=_epochs(1)), tmp_path / "run")
    assert run.manifest()["training"]["tokens"] == _train_counts(run)["tokens"]
    assert run.manifest()["training"]["supervised_tokens"] is None
    assert all("supervised_tokens_per_second" not in point for point in _points(run))


def test_judged_answers_are_counted_and_what_only_the_kl_term_needs_is_not(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {n}."}],
            "completion": [{"role": "assistant", "content": f"It is {n}."}],
            "label": n % 2 == 0,
        }
        for n in range(20)
    ]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = train(recipe_of(data, method="kto", training=_epochs(1)), tmp_path / "run")
    _assert_whole_epoch(run)


def test_prompts_and_the_models_own_answers_are_counted_as_trl_counts_them(tmp_path: Path) -> None:
    data = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(16)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text("def short(completions, **kwargs):\n    return [0.0 for _ in completions]\n")
    rewards = [{"function": f"{tmp_path / 'judge.py'}:short"}]
    online = {"num_generations": 2, "max_completion_length": 8}
    run = train(recipe_of(data, method="grpo", rewards=rewards, training=online), tmp_path / "run")
    points = _points(run)
    assert sum(point["tokens"] for point in points) == points[-1]["num_tokens"] > 0
    assert all(0 < point["supervised_tokens"] < point["tokens"] for point in points)


def test_padding_is_what_was_computed_for_nothing() -> None:
    import torch

    ids = torch.zeros(2, 6, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    labels = torch.tensor([[-100, -100, 5, 5, 5, 5], [-100, 5, -100, -100, -100, -100]])
    window = _window_of({"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert (window.tokens, window.supervised, window.fed, window.pairs) == (8, 5, 12, 21 + 3)
    assert window.rates()["padding"] == pytest.approx(4 / 12, abs=1e-4)


def test_documents_end_to_end_attend_apart_and_padding_behind_them_is_none() -> None:
    import torch

    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 0]])  # of 3 and 2 tokens, and three places of padding
    labels = torch.tensor([[-100, 5, 5, -100, 5, -100, -100, -100]])
    batch = {"input_ids": torch.ones(1, 8, dtype=torch.long), "position_ids": positions, "labels": labels}
    window = _window_of(batch, pad_to_multiple_of=8)
    assert (window.tokens, window.supervised, window.fed, window.pairs) == (5, 3, 8, 6 + 3)


def test_prompts_and_the_answers_written_to_them_are_counted() -> None:
    import torch

    batch = {
        "prompt_ids": torch.ones(1, 3, dtype=torch.long), "prompt_mask": torch.tensor([[0, 1, 1]]),
        "completion_ids": torch.ones(1, 4, dtype=torch.long), "completion_mask": torch.tensor([[1, 1, 1, 0]]),
    }  # fmt: skip
    window = _window_of(batch)
    assert (window.tokens, window.supervised, window.fed, window.pairs) == (5, 3, 7, 15)


def _window_of(batch: dict[str, Any], pad_to_multiple_of: int | None = None) -> Window:
    """What a meter counts of one micro-batch of a trainer that computes nothing."""
    import torch

    class Trainer:
        class args:  # noqa: N801
            pass

        class callback_handler:  # noqa: N801
            callbacks: list[Any] = []  # noqa: RUF012

        def get_batch_samples(self, batches: Any, number: int, device: Any) -> Any:  # noqa: ARG002
            return [next(batches) for _ in range(number)], None

        def compute_loss(self, model: Any, inputs: Any) -> None:
            pass

    trainer, meter, model = Trainer(), Meter(), torch.nn.Linear(1, 1)
    trainer.args.pad_to_multiple_of = pad_to_multiple_of  # pyright: ignore[reportAttributeAccessIssue]
    meter.attach(trainer)
    samples, _ = trainer.get_batch_samples(iter([batch]), 1, None)
    trainer.compute_loss(model.eval(), samples[0])  # an evaluation isn't counted
    trainer.compute_loss(model.train(), samples[0])
    meter.step_ended(torch.device("cpu"), read=True)
    return meter.first


def test_a_resumed_run_counts_all_steps_and_times_its_own(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastft.progress

    whole = fastft.progress.progress_callback

    def interrupting(*args: Any, **options: Any) -> Any:
        callback = whole(*args, **options)

        def on_step_begin(args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG001
            if state.global_step == 8:
                raise KeyboardInterrupt

        callback.on_step_begin = on_step_begin
        return callback

    recipe = recipe_of(chats, training=_epochs(2, gradient_accumulation_steps=1, save_steps=6))
    with monkeypatch.context() as patch:
        patch.setattr(fastft.progress, "progress_callback", interrupting)
        with pytest.raises(TrainingError, match="stopped at step 8 of 10"):
            train(recipe, tmp_path / "run")
    run = train(recipe, tmp_path / "run", resume=True)
    points, told = _points(run), run.manifest()["training"]
    assert [point["step"] for point in points] == list(range(1, 11))
    assert sum(point["tokens"] for point in points) == 2 * _train_counts(run)["tokens"]
    assert told["measured_steps"] == 4  # 7 to 10: what came before was another process'
    assert told["tokens"] == sum(point["tokens"] for point in points)
    assert told["supervised_tokens"] == sum(point["supervised_tokens"] for point in points)
    seconds = [point["seconds"] for point in points]
    assert seconds == sorted(seconds), "counted on from where it was stopped"
    last = run.metrics()[-1]
    assert last["train_steps_per_second"] == pytest.approx(4 / last["train_runtime"], rel=1e-2)
    assert last["train_samples_per_second"] == pytest.approx(4 * 4 / last["train_runtime"], rel=1e-2)
    assert told["steps"] == 10
    for point in points[7:]:  # a rate is that of its own step, which the tokens before it don't lift
        assert point["tokens_per_second"] * (point["seconds"] - points[6]["seconds"] + 1) < 50 * point["tokens"]


def test_rates_of_a_window_are_arithmetic() -> None:
    from fastft.flops import StepCost

    window = Window(steps=2, seconds=4.0, waited=0.5, tokens=8000, supervised=2000, fed=10000, pairs=10)
    rates = window.rates(StepCost(per_token=1e9, per_pair=1e11), tflops=10.0)
    assert rates == {
        "tokens_per_second": 2000.0, "supervised_tokens_per_second": 500.0, "mfu": 0.225, "data_wait": 0.125,
        "padding": 0.2,
    }  # fmt: skip
    assert Window().rates() == {}


def test_the_costs_of_a_token_are_those_of_the_formulas() -> None:
    """An 8B Llama at 2,048 tokens: 31.9 GFLOPs a token, 46.5 with recomputation (derived in performance.md)."""
    from fastft.flops import step_cost
    from fastft.planning.shape import shape_of

    llama = shape_of({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    })  # fmt: skip
    assert llama is not None
    pairs = 2049 / 2  # a token
    plain, again = step_cost(llama, frozen=True), step_cost(llama, frozen=True, recomputed=1.0)
    assert plain.of(1, 0) == pytest.approx(4 * (6.979e9 + 0.525e9), rel=1e-3)
    assert plain.per_token + plain.per_pair * pairs == pytest.approx(31.6e9, rel=0.02)
    assert again.per_token + again.per_pair * pairs == pytest.approx(46.1e9, rel=0.02)
    full, refers = step_cost(llama, frozen=False), step_cost(llama, frozen=True, reference=True)
    assert full.per_token == pytest.approx(1.5 * plain.per_token)
    assert refers.per_token == full.per_token
    assert refers.per_pair == pytest.approx(plain.per_pair * 4 / 3)
    assert step_cost(llama, frozen=True, scores=True).per_token == 4 * llama.computed


def test_the_display_is_one_quiet_line() -> None:
    from fastft.progress import facts_of

    point = {"loss": 1.23456, "tokens_per_second": 12345.6, "mfu": 0.412, "reward": 0.5}
    assert facts_of(point, ("reward",)) == "loss 1.235 · reward 0.500 · 12,346 tokens/s · 41% MFU"
    assert facts_of({"loss": 2.0}) == "loss 2.000"


def test_what_is_measured_is_shown_at_the_end(chats: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    fastft.train(recipe_of(chats), output_dir=tmp_path / "run", console=Console(file=output, width=160))
    shown = output.getvalue()
    assert " supervised · " in shown
    assert "waiting for data" in shown
    assert "GB at the peak, " in shown
    assert "s to the end of the first step: " in shown
