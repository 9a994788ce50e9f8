"""`fastft preview`: what is shown of examples, rows and packed sequences, on a terminal and as a page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastft.cli_preview import preview
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import DatasetError, RecipeError
from fastft.previewing import preview_recipe

ROOT = Path(__file__).resolve().parent.parent
NASTY = "<script>alert('x')</script> & \"quotes\" [/b] 👋🏽"


def _row(question: str, *answers: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}]
    turns += [{"role": "assistant", "content": answer} for answer in answers]
    return {"messages": turns}


ROWS = [
    _row("Hello!", "Hi."),
    _row(NASTY, NASTY),
    _row("Empty?", "  "),
    _row("Say a lot.", "word " * 300),
    {"messages": [*_row("one", "1")["messages"], {"role": "user", "content": "And then?"}]},
]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    data = tmp_path / "chats.jsonl"
    # A blank line: numbers count rows, places count lines.
    data.write_text("\n" + "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(_row("Held?", "Out.")) + "\n", encoding="utf-8")
    return {
        "model": {"model_name": "fastft/tiny", "max_seq_length": 128},
        "lora": {},
        "data": {"path": str(data), "eval_split": str(held_out)},
        "method": "sft",
    }


def _plain(recipe: dict[str, Any], **how: Any) -> list[str]:
    return preview_recipe(recipe, **how).text().plain.splitlines()


def test_examples_are_shown_in_order_with_what_is_learned(recipe: dict[str, Any]) -> None:
    lines = _plain(recipe, count=2)
    assert lines[0] == "recipe · fastft/tiny"
    shown = lines[lines.index("example 1 of 4") :]
    assert re.fullmatch(r"── chats\.jsonl:2: \d+ of \d+ tokens are learned", shown[1])
    assert shown[2:5] == ["<|im_start|>user", "Hello!<|im_end|>↵", "<|im_start|>assistant↵"]
    assert shown[5] == "⟦Hi.<|im_end|>⟧"
    assert shown[shown.index("example 2 of 4") + 5] == f"⟦{NASTY}<|im_end|>⟧"
    assert "example 3 of 4" not in shown
    with pytest.raises(RecipeError, match="shows nothing"):
        preview_recipe(recipe, count=0)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (1, "row 1, chats.jsonl:2: trained on"),
        ("chats.jsonl:2", "row 1, chats.jsonl:2: trained on"),
        ("3", "row 3, chats.jsonl:4: left out"),
        (4, "row 4, chats.jsonl:5: trained on"),
        ("held_out.jsonl:1", "row 6, held_out.jsonl:1: held out"),
    ],
)
def test_the_fate_of_a_row_is_told(recipe: dict[str, Any], row: int | str, told: str) -> None:
    assert told in _plain(recipe, row=row)


def test_why_a_row_was_left_out_cut_or_not_used_whole(recipe: dict[str, Any]) -> None:
    left_out = _plain(recipe, row=3)
    assert "an assistant turn is empty: turn 2" in left_out
    assert '      "content": "Empty?"' in left_out  # the row as it was read
    assert not any("⟦" in line for line in left_out[3:])
    cut = _plain(recipe, row=4)
    assert any(re.fullmatch(r"\d+ tokens cut off, \d+ of them to learn", line) for line in cut)
    assert "the turn after the last answer: not used" in _plain(recipe, row=5)
    with pytest.raises(DatasetError, match=r"has no row 9: 6 were read"):
        preview_recipe(recipe, row=9)
    with pytest.raises(DatasetError, match=r"has no row other\.jsonl:1"):
        preview_recipe(recipe, row="other.jsonl:1")


def test_a_broken_row_that_is_passed_over_is_told_with_its_fault(recipe: dict[str, Any]) -> None:
    path = Path(recipe["data"]["path"])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"messages": [}\n' + json.dumps({"messages": "hello"}) + "\n")
    recipe["data"]["on_error"] = "skip"
    for row, place in ((6, "chats.jsonl:7"), (7, "chats.jsonl:8")):
        lines = _plain(recipe, row=row)
        at = lines.index(f"row {row}, {place}: malformed")
        assert lines[at + 1].startswith(f"{place}: ")
        assert "; expected " in lines[at + 1]
    assert '  "messages": "hello"' in _plain(recipe, row=7)


def test_rows_of_a_mixture_are_counted_through_and_repeats_are_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    pairs = [{"prompt": "Pair?", "completion": "One."}, {"prompt": "Pair?", "completion": "One."}]
    more.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    recipe["data"] |= {"path": [recipe["data"]["path"], str(more)], "deduplicate": True}
    trained = _plain(recipe, row=6)
    assert "row 6, more.jsonl:1: trained on" in trained
    assert "⟦One.<|im_end|>⟧" in trained
    repeated = _plain(recipe, row="more.jsonl:2")
    at = repeated.index("row 7, more.jsonl:2: left out")
    assert "repeats an earlier row" in repeated[at + 1]


def test_packed_sequences_show_where_documents_begin_and_end(recipe: dict[str, Any], tiny: Path) -> None:
    lines = _plain(recipe, packed=True, count=9)
    sequences = [line for line in lines if line.startswith("packed sequence")]
    assert sequences == [f"packed sequence {n} of {len(sequences)}" for n in range(1, len(sequences) + 1)]
    assert re.fullmatch(rf"{len(sequences)} packed sequences, [\d.]+% of their positions filled", lines[3])
    documents = [line for line in lines if line.startswith("── document")]
    places = sorted(re.findall(r"chats\.jsonl:\d", " ".join(documents)))
    assert places == [f"chats.jsonl:{n}" for n in (2, 3, 5, 6)]
    tokenizer = ChatTokenizer.load(tiny)
    for line in documents:
        number, of, first, last = map(int, re.findall(r"\d+", line.split(" · ")[0]))
        assert number <= of
        assert (first == 0) == (number == 1)
        assert 0 <= first < last < 128
    length = len(tokenizer.encode(tokenizer.render(ROWS[0]["messages"]).rstrip("\n")))
    of_first = next(line for line in documents if "chats.jsonl:2:" in line)
    first, last = map(int, re.findall(r"positions (\d+) to (\d+)", of_first)[0])
    assert last - first + 1 == length
    assert "training.packing is off in this recipe; this is how training.packing=true would pack it" in lines
    holding = _plain(recipe, packed=True, row=1)
    assert sum(line.startswith("packed sequence") for line in holding) == 1
    assert any("chats.jsonl:2:" in line for line in holding)
    with pytest.raises(DatasetError, match=r"chats\.jsonl:4 is in no packed sequence"):
        preview_recipe(recipe, packed=True, row=3)


class _Page(HTMLParser):
    """Tags that are open, all tags met, and the text of each <pre> and of its learned parts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.pre: list[str] = []
        self.learned: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "style"}
        if tag == "pre":
            self.pre.append("")
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if any(tag == "pre" for tag, _ in self.open):
            self.pre[-1] += data
            self.learned += [data] if "learned" in self.open[-1][1].split() else []


def test_the_page_is_whole_escaped_and_says_what_the_terminal_says(recipe: dict[str, Any]) -> None:
    shown = preview_recipe(recipe, count=2)
    page = _Page()
    page.feed(shown.html())
    assert page.open == []
    assert page.tags == {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre", "span"}
    plain = shown.text().plain
    assert len(page.pre) == 2
    assert all(pre.removeprefix("\n") in plain for pre in page.pre)
    assert "".join(page.learned) == f"⟦Hi.<|im_end|>⟧⟦{NASTY}<|im_end|>⟧"
    html = shown.html()
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"https?://|@import|url\(", html)
    assert "‹" in preview_recipe(recipe, count=1).html(ids=True)


def test_the_command_writes_only_the_page_and_never_over_another(tmp_path: Path) -> None:
    runner = CliRunner()
    quickstart = str(ROOT / "recipes" / "quickstart.yaml")
    page = tmp_path / "page.html"
    done = runner.invoke(preview, [quickstart, "-n", "1", "--html", str(page)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.strip() == f"wrote {page}"
    first = page.read_text(encoding="utf-8")
    again = runner.invoke(preview, [quickstart, "--html", str(page)])
    assert isinstance(again.exception, RecipeError)
    assert "--overwrite" in again.exception.hint
    assert page.read_text(encoding="utf-8") == first
    runner.invoke(preview, [quickstart, "-n", "2", "--html", str(page), "--overwrite"], catch_exceptions=False)
    assert len(page.read_text(encoding="utf-8")) > len(first)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    missing = runner.invoke(preview, [quickstart, "--html", str(tmp_path / "none" / "page.html")])
    assert isinstance(missing.exception, RecipeError)


def test_help_shows_examples_line_by_line() -> None:
    shown = CliRunner().invoke(preview, ["--help"]).output.splitlines()
    assert "    fastft preview recipes/quickstart.yaml --row 17" in shown


def test_the_command_prints_and_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from fastft.cli_preview import preview\n"
        f"preview([{str(ROOT / 'recipes' / 'quickstart.yaml')!r}, '--ids', '-n', '1'], standalone_mode=False)\n"
        "loaded = {'torch', 'unsloth', 'trl', 'peft', 'bitsandbytes'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "‹1›user" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["dpo", "kto", "grpo", "reward"])
def test_a_row_of_other_methods_is_shown_as_they_learn_it(method: str) -> None:
    """A pair is two examples, a judged answer one, a prompt one of which nothing is learned."""
    recipes = Path(__file__).resolve().parent.parent / "recipes"
    (section,) = preview_recipe(recipes / method / "tiny.yaml", row=3).sections
    assert "trained on" in section.heading
    assert len(section.shown) == {"dpo": 2, "reward": 2}.get(method, 1)
    learned = [any(piece.learned for piece in example.pieces) for example in section.shown]
    assert learned == [method != "grpo"] * len(learned)
