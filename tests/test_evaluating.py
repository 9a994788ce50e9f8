"""`fastft eval`, against computations with transformers alone, on the throw-away run of tests/small_model.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastft.cli import main
from fastft.data.conversation import Example
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, ModelError, RecipeError
from fastft.evals.engines import Loader, TransformersEngine
from fastft.evals.results import summaries
from fastft.evals.scoring import batches, scores
from fastft.evaluating import evaluate
from fastft.run import Run
from tests.small_model import TAUGHT, conversation, shared_run, write_heldout

pytestmark = pytest.mark.slow

GGUF = "exports/gguf-f16"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shared run whose held-out answers have several lengths, one of them over many turns."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(shared_run(tmp_path_factory.getbasetemp()), folder)
    pairs = [conversation(*pair) for pair in TAUGHT.items()]
    write_heldout(Run(folder).directory, [*pairs, [*pairs[0], *pairs[1]], conversation("snow", "white " * 9 + "snow")])
    return folder


@pytest.fixture(scope="module")
def report(run: Path):
    return evaluate([run, run / GGUF])


def _base(run: Path) -> Path:
    return Path(Run(run).manifest()["model"]["model_name"])


def _reference(folder: Path, adapter: Path | None, heldout: Path) -> tuple[float, float]:
    """(loss, token accuracy) by transformers: labels of -100 but for what the template writes of assistant turns."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    nats, right, count = 0.0, 0, 0
    for line in heldout.read_text().splitlines():
        ids: list[int] = []
        labels: list[int] = []
        for message in json.loads(line)["messages"]:
            head = tokenizer.encode(f"<|im_start|>{message['role']}\n", add_special_tokens=False)
            body = tokenizer.encode(message["content"] + "<|im_end|>", add_special_tokens=False)
            newline = tokenizer.encode("\n", add_special_tokens=False)
            learned = message["role"] == "assistant"
            ids += head + body + newline
            labels += [-100] * len(head) + (body if learned else [-100] * len(body)) + [-100] * len(newline)
        with torch.no_grad():
            out = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        tokens = sum(label != -100 for label in labels)
        nats, count = nats + float(out.loss) * tokens, count + tokens
        best = out.logits[0].argmax(-1).tolist()
        right += sum(best[i - 1] == label for i, label in enumerate(labels) if label != -100)
    return nats / count, right / count


def test_loss_and_token_accuracy_are_those_of_transformers_for_base_and_tuned(run: Path, report) -> None:
    for name, adapter in (("base", None), ("run", run / "adapter")):
        loss, accuracy = _reference(_base(run), adapter, run / "heldout.jsonl")
        column = report.column(name)
        assert column.loss == pytest.approx(loss, abs=1e-5)
        assert column.token_accuracy == accuracy
    assert report.column("base").loss > report.column("run").loss + 0.5
    assert report.column("base").value("exact_match") < report.column("run").value("exact_match")


def test_the_base_column_is_the_base_model_evaluated_alone(run: Path, report) -> None:
    alone = evaluate(_base(run), data=run / "heldout.jsonl", format="messages", out=run / "alone")
    (only,) = alone.columns
    assert only.name == "small-model/base"  # "base" alone would say what the model was made of
    assert only.role == "model"
    for key in ("loss", "token_accuracy", "exact_match", "rougeL", "bleu", "chrf", "answer_length", "stopped"):
        assert only.value(key) == report.column("base").value(key), key
    assert [g.text for g in only.given] == [g.text for g in report.column("base").given]


def test_a_gguf_gets_the_same_numbers_from_the_same_ids(report) -> None:
    gguf, tuned = report.column("gguf-f16"), report.column("run")
    assert gguf.loss == pytest.approx(tuned.loss, abs=0.01)
    assert gguf.loss != tuned.loss  # another engine, so not the very same number
    assert gguf.supervised_tokens == tuned.supervised_tokens > 0
    assert gguf.token_accuracy == tuned.token_accuracy
    assert [g.text for g in gguf.given] == [g.text for g in tuned.given]


def test_answers_scores_and_counts_are_kept(run: Path, report) -> None:
    assert report.folder == run / "eval" / "heldout"
    assert summaries(run)[0].startswith(f"eval/heldout · base loss {report.column('base').loss:.3f}, ")
    (run / "eval" / "old").mkdir()
    (run / "eval" / "old" / "results.json").write_text("{}")
    assert summaries(run)[1] == "eval/old · results.json can't be read"
    shutil.rmtree(run / "eval" / "old")
    kept = json.loads((report.folder / "results.json").read_text())
    assert kept == report.as_dict()
    rows = [json.loads(line) for line in (report.folder / "generations.jsonl").read_text().splitlines()]
    assert len(rows) == kept["data"]["asked"] == 8
    assert rows[0]["prompt"] == "What colour is grass?"
    assert rows[0]["expected"] == rows[0]["run"]["answer"] == "It is purple."
    assert rows[0]["run"]["exact"]
    assert rows[0]["base"]["answer"] == "It is green."
    assert not rows[0]["base"]["exact"]
    shares = [row["run"]["exact"] for row in rows]
    assert kept["columns"][1]["exact_match"] == pytest.approx(sum(shares) / len(shares))
    nats = sum(row["base"]["loss"] * tokens for row, tokens in zip(rows, _supervised(report), strict=True))
    assert kept["columns"][0]["loss"] == pytest.approx(nats / kept["data"]["supervised_tokens"])


def _supervised(report) -> list[int]:
    return [score.tokens for _, score in sorted(report.column("base").rows.items())]


def test_token_accuracy_and_loss_of_a_hand_made_model() -> None:
    """A model that always expects the id after the one it read, with probability 1/2 (logit 0 against -ln 9 each)."""
    import math
    from types import SimpleNamespace

    import torch

    class Counting(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            logits = torch.full((*input_ids.shape, 10), -math.log(9))
            return SimpleNamespace(logits=logits.scatter(-1, ((input_ids + 1) % 10)[..., None], 0.0))

    examples = [
        Example([1, 2, 3, 5], [-100, 2, 3, 5], "1"),
        Example([4, 5, 9, 0, 1, 3], [-100, -100, -100, 0, 1, 3], "2"),
        Example([7, 7], [-100, -100], "3"),
    ]
    for tokens in (1, 8, 100):
        found = dict(scores(Counting(), examples, tokens))
        assert [(found[i].tokens, found[i].right) for i in range(3)] == [(3, 2), (3, 2), (0, 0)]
        expected = 2 * math.log(2) + math.log(18)
        assert [found[i].nats for i in range(3)] == pytest.approx([expected, expected, 0], abs=1e-5)


def test_batches_hold_as_many_tokens_as_fit_and_every_row_once() -> None:
    lengths = [5, 1, 9, 3, 3, 20, 2]
    found = list(batches(lengths, 10))
    assert sorted(index for batch in found for index in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 10 for batch in found)
    assert len(list(batches(lengths, 10, most=1))) == 7


def test_what_does_not_fit_into_memory_is_halved(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fastft.evals.columns import columns_of

    column = columns_of([run], base=False).columns[0]
    tokenizer = ChatTokenizer.load(column.tokenizer)
    loader = Loader(None)
    engine = loader.open(column, tokenizer, 0)
    assert isinstance(engine, TransformersEngine)
    whole, sizes = engine.model._generate, []

    def scarce(prompts: list[Sequence[int]], *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(prompts, *rest)

    prompts = [tokenizer.prompt_ids(conversation(*pair)[:1]) for pair in TAUGHT.items()]
    plenty = engine.answers(prompts, 8, lambda _: None)
    monkeypatch.setattr(engine.model, "_generate", scarce)
    assert engine.answers(prompts, 8, lambda _: None) == plenty
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    loader.close()


def test_every_row_is_accounted_for(run: Path, tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    user = {"role": "user", "content": "What colour is snow?"}
    rows: list[Any] = [
        {"messages": conversation("snow", "brown")},
        {"messages": [user, call]},
        {"messages": [user]},
        {"messages": "broken"},
        {"messages": conversation("coal", "pink")},
        {"messages": conversation("gold", "violet " * 200)},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate(run, data=path, base=False, samples=2, max_length=64, out=tmp_path / "out")
    data = found.data
    assert data["rows"] == 6
    assert data["scored_rows"] + sum(of["rows"] for of in data["left_out"].values()) + len(data["broken"]) == 6
    assert data["asked"] + sum(data["not_asked"].values()) == data["scored_rows"]
    assert data["left_out"]["the row has no assistant turn"]["places"] == ["rows.jsonl:3"]
    assert "rows.jsonl:4" in data["broken"][0]
    assert any("cut at 64 tokens" in note for note in found.notes)
    assert [column.name for column in found.columns] == ["tuned"]
    assert data["not_asked"]["more than --samples 2"] == data["scored_rows"] - 2


def test_rows_whose_prompt_fills_the_model_are_passed_over_for_others(run: Path, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "What " * 240}, {"role": "assistant", "content": "It is red."}]
    rows = [long, conversation("snow", "brown"), long, conversation("coal", "pink")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    for samples in (2, 4):
        found = evaluate(run, data=path, base=False, samples=samples, out=tmp_path / f"out {samples}")
        assert [question.place for question in found.questions] == ["rows.jsonl:2", "rows.jsonl:4"]
        assert sum(found.data["not_asked"].values()) == 2
    assert list(found.data["not_asked"]) == ["the prompt leaves no room for an answer in what the model reads"]
    assert found.data["scored_rows"] == 4


def test_the_command_shows_the_table_and_json(run: Path) -> None:
    shown = CliRunner().invoke(main, ["eval", str(run), "--samples", "3", "--max-new-tokens", "5"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.split()[:2] == ["base", "tuned"]
    for label in ("loss", "perplexity", "token accuracy", "exact match", "ROUGE-L", "BLEU", "chrF", "that stop"):
        assert label in shown.output
    assert "not answered: 5 rows, more than --samples 3" in shown.output
    printed = CliRunner().invoke(main, ["eval", str(run), "--samples", "0", "--json", "--no-base"])
    values = json.loads(printed.stdout)
    assert [column["name"] for column in values["columns"]] == ["tuned"]
    assert values["columns"][0]["exact_match"] is None
    assert values["name"].startswith("heldout-")  # nothing that was found before is overwritten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "There is nothing at"),
        (["{run}", "--data", "{tmp}/none.jsonl"], "none.jsonl"),
        (["{run}", "--data", "{tmp}/silent.jsonl"], "none of its 2 rows can be evaluated on"),
        (["{run}", "--data", "{tmp}/silent.jsonl", "--format", "nonsense"], "--format 'nonsense'"),
        (["{run}", "--out", "{run}"], "exists"),
        (["{base}"], "--data FILE"),
        (["{tmp}/loose.gguf", "--data", "{tmp}/silent.jsonl"], "--tokenizer FOLDER"),
        (["{tmp}/loose.gguf", "--tokenizer", "{tmp}", "--data", "x.jsonl"], "holds no tokenizer.json"),
        (["{run}", "{run}"], "named twice"),
        (["{unfinished}"], "has not finished training"),
        (["{empty}"], "held no conversations out"),
        (["{run}", "--tasks", "arc_eazy"], "Did you mean arc_easy"),
        (["{run}/exports/gguf-f16", "--no-base", "--tasks", "arc_easy"], "not GGUF files"),
        (["{run}", "--samples", "-1"], "--samples"),
        (["{run}", "--dtype", "int4"], "--dtype"),
        ([], "Missing argument"),
    ],
)
def test_what_is_wrong_is_one_clear_message(
    run: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "silent.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello?"}]}\n' * 2)
    (tmp_path / "loose.gguf").symlink_to(next((run / GGUF).glob("*.gguf")))
    for name in ("unfinished", "empty"):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("exports", "eval"))
    (tmp_path / "unfinished" / "manifest.json").unlink()
    (tmp_path / "empty" / "heldout.jsonl").write_text("")
    places = {"run": run, "tmp": tmp_path, "base": _base(run)}
    places |= {name: tmp_path / name for name in ("unfinished", "empty")}
    result = CliRunner().invoke(main, ["eval", *(argument.format(**places) for argument in arguments)])
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_a_gguf_outside_a_run_takes_a_tokenizer_and_refuses_another_ones(run: Path, tiny: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose.gguf"
    loose.symlink_to(next((run / GGUF).glob("*.gguf")))
    options: dict[str, Any] = {"data": run / "heldout.jsonl", "samples": 0}
    found = evaluate(loose, tokenizer=run / "adapter", out=tmp_path / "out", **options)
    assert found.columns[0].supervised_tokens == found.data["supervised_tokens"]
    with pytest.raises(ModelError, match="is not that of"):
        evaluate(loose, tokenizer=tiny, out=tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_a_run_whose_base_is_gone_says_so(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("eval"))
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["model"]["model_name"] = str(tmp_path / "gone")
    (moved / "manifest.json").write_text(json.dumps(manifest))
    found = evaluate(moved / GGUF, samples=0)
    assert [column.name for column in found.columns] == ["gguf-f16"]
    assert "no column for the base" in found.notes[0]
    with pytest.raises(ModelError, match="gone"):
        evaluate(moved)


TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "<|im_start|>user\\n{{question}}<|im_end|>\\n<|im_start|>assistant\\nIt is"
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_of_lm_eval_runs_on_base_and_tuned(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    colours = list(TAUGHT.values())
    rows = [
        {"question": f"What colour is {thing}?", "choices": colours, "label": colours.index(colour)}
        for thing, colour in TAUGHT.items()
    ]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tmp_path / "colours.yaml"
    task.write_text(TASK.replace("DATA", str(tmp_path / "colours.jsonl")))
    found = evaluate(run, tasks=(str(task),), samples=0)
    base, tuned = (column.tasks["colours"]["acc"] for column in found.columns)
    assert tuned == 1.0 > base
    alone = evaluate(_base(run), tasks=(str(task),), task_limit=2, out=tmp_path / "alone")
    assert alone.columns[0].loss is None
    assert "acc" in alone.columns[0].tasks["colours"]
    with pytest.raises(RecipeError, match="there is no file"):
        evaluate(run, tasks=(str(tmp_path / "none.yaml"),))
    task.write_text(TASK.replace("DATA", str(tmp_path / "none.jsonl")))
    with pytest.raises(DatasetError, match="lm-eval can't load"):
        evaluate(run, tasks=(str(task),))


def test_without_lm_eval_tasks_say_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)  # what Python itself does for a package to miss
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    with pytest.raises(RecipeError, match="not installed") as raised:
        evaluate(run, tasks=("arc_easy",))
    assert "uv sync --extra eval" in raised.value.hint
