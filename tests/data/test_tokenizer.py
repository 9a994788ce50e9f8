"""The tokenizer without torch: special tokens, one BOS, the end of a turn, a clock that stands still."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError

HELLO = [{"role": "user", "content": "Hello"}]


def test_special_tokens_and_end_of_turn(qwen: ChatTokenizer, llama: ChatTokenizer) -> None:
    assert (qwen.bos_token, qwen.eos_token, qwen.pad_token) == (None, "<|im_end|>", "<|endoftext|>")
    assert (qwen.bos_token_id, qwen.eos_token_id, qwen.pad_token_id) == (None, 151645, 151643)
    assert (qwen.end_of_turn, qwen.end_of_turn_id) == ("<|im_end|>", 151645)
    assert (llama.bos_token_id, llama.eos_token_id, llama.pad_token_id) == (128000, 128009, 128004)
    assert (llama.end_of_turn, llama.end_of_turn_id) == ("<|eot_id|>", 128009)
    assert (qwen.vocab_size, llama.vocab_size) == (151936, 128256)
    assert len(qwen.template_sha256) == 64


def test_a_prompt_has_one_bos_and_ends_with_the_generation_prompt(llama: ChatTokenizer, qwen: ChatTokenizer) -> None:
    ids = llama.prompt_ids(HELLO)
    assert ids[0] == 128000
    assert ids.count(128000) == 1
    assert ids[-4:] == [128006, 78191, 128007, 271]
    assert qwen.prompt_ids(HELLO)[-3:] == [151644, 77091, 198]


def test_encoding_adds_nothing_and_knows_special_tokens(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.encode(tokenizer.end_of_turn) == [tokenizer.end_of_turn_id]
    ids = tokenizer.encode("Hé 👋")
    assert tokenizer.decode(ids) == "Hé 👋"
    assert tokenizer.decode([*ids, tokenizer.end_of_turn_id], skip_special_tokens=True) == "Hé 👋"
    assert tokenizer.control_token_in(f"a {tokenizer.end_of_turn} b") == tokenizer.end_of_turn
    assert tokenizer.control_token_in("<|im_end> <|eot_id> <tool_call>") is None


def test_the_date_stands_still_unless_given(llama: ChatTokenizer) -> None:
    assert "Today Date: 26 Jul 2024" in llama.render(HELLO)
    assert "Today Date: 03 Feb 2031" in llama.render(HELLO, now=datetime(2031, 2, 3))


def test_a_template_that_refuses_says_why(qwen: ChatTokenizer) -> None:
    with pytest.raises(ModelError, match="the chat template refuses the messages"):
        qwen.render([])


def _folder(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    for file in (target, *target.iterdir()):
        file.chmod(0o755)
    path = target / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def test_special_tokens_may_be_objects_or_in_their_own_file(qwen_tokenizer: Path, tmp_path: Path) -> None:
    folder = _folder(qwen_tokenizer, tmp_path / "m", eos_token={"content": "<|im_end|>", "lstrip": False})
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<|endoftext|>"}}))
    tokenizer = ChatTokenizer.load(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_truncation_and_padding_of_the_file_are_switched_off(qwen_tokenizer: Path, tmp_path: Path) -> None:
    folder = _folder(qwen_tokenizer, tmp_path / "m")
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert len(ChatTokenizer.load(folder).encode("one two three four five six")) == 6


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown special token": ({"eos_token": "<|nope|>"}, r"eos_token is '<\|nope\|>', which is not in tokenizer.json"),
    "two vocabularies": (
        {"added_tokens_decoder": {"7": {"content": "<|im_end|>"}}},
        r"gives '<\|im_end\|>' the id 7, tokenizer.json 151645",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_configs_are_named(qwen_tokenizer: Path, tmp_path: Path, name: str) -> None:
    config, message = BROKEN[name]
    with pytest.raises(ModelError, match=message):
        ChatTokenizer.load(_folder(qwen_tokenizer, tmp_path / "m", **config))


TEMPLATES = {
    "syntax": ("{% for m in messages %}", "the chat template is no valid Jinja: line 1: Unexpected end"),
    "no end token": ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "a model trained with it could not stop"),
    "no contents": ("{% for m in messages %}<|im_end|>{% endfor %}", "does not write an assistant's turn once"),
    "raises": ("{{ raise_exception('not today') }}", "can't write a question and an answer: .*not today"),
    "undefined": ("{{ messages[0].missing.deeper }}", "can't write a question and an answer"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_unfit_templates_are_refused_at_loading(qwen_tokenizer: Path, tmp_path: Path, name: str) -> None:
    template, message = TEMPLATES[name]
    (tmp_path / "t.jinja").write_text(template)
    with pytest.raises(ModelError, match=message):
        ChatTokenizer.load(qwen_tokenizer, str(tmp_path / "t.jinja"))


def test_a_template_that_writes_bos_twice_is_refused(llama_tokenizer: Path, tmp_path: Path) -> None:
    twice = "<|begin_of_text|>" + (llama_tokenizer / "chat_template.jinja").read_text()
    (tmp_path / "t.jinja").write_text(twice)
    with pytest.raises(ModelError, match=r"writes <\|begin_of_text\|> twice"):
        ChatTokenizer.load(llama_tokenizer, str(tmp_path / "t.jinja"))


def test_a_template_whose_end_token_is_not_in_the_tokenizer_is_refused(llama_tokenizer: Path) -> None:
    with pytest.raises(ModelError, match=r"closes an assistant turn with '<\|im_end\|>\\n', which holds no special"):
        ChatTokenizer.load(llama_tokenizer, "chatml")


def test_folders_without_a_usable_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match="not an object with keys"):
        ChatTokenizer.load(tmp_path)


def test_preparing_data_imports_no_torch(qwen_tokenizer: Path, tmp_path: Path) -> None:
    """`fastft check` must answer within three seconds; torch alone takes longer."""
    (tmp_path / "d.jsonl").write_text("".join(f'{{"prompt": "{n}", "completion": "b"}}\n' for n in range(3)))
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from fastft.data.prepare import prepare_data\nfrom fastft.data.tokenizer import ChatTokenizer\n"
        "from fastft.recipe.schema import DataSection\n"
        f"data = DataSection.model_validate({{'path': {str(tmp_path / 'd.jsonl')!r}, 'eval_split': 1}})\n"
        f"prepared = prepare_data(data, ChatTokenizer.load(Path({str(qwen_tokenizer)!r})), max_length=99, seed=1)\n"
        "prepared.audit.table()\n"
        "print(sorted({'torch', 'datasets', 'unsloth', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_ids_equal_those_of_transformers(shared: Path, qwen_tokenizer: Path, llama_tokenizer: Path) -> None:
    """Every third row of the tool-calling set and of the alpaca set, against AutoTokenizer.apply_chat_template."""
    from transformers import AutoTokenizer

    from fastft.data.formats import load_format
    from fastft.data.render import Renderer
    from tests.data.reading import read_rows

    files = {"glaive_toolcall_en_demo.json": "sharegpt", "alpaca_en_demo.json": "alpaca"}
    for folder in (qwen_tokenizer, llama_tokenizer):
        tokenizer, theirs = ChatTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
        for file, name in files.items():
            rows = read_rows(shared / "data" / file)[::3]
            conversations = [load_format(name).convert(row.values, row.place) for row in rows]
            for rendered in Renderer(tokenizer, max_length=100_000).render_all(conversations):
                (example,) = rendered.examples
                options = {"tools": list(rendered.conversation.tools) or None, "date_string": "26 Jul 2024"}
                whole = theirs.apply_chat_template(
                    rendered.conversation.as_dicts(), tokenize=True, return_dict=False, **options
                )
                # The template's line break after the last end-of-turn token is not part of an example.
                assert whole[: len(example.input_ids)] == example.input_ids
                assert theirs.decode(whole[len(example.input_ids) :]).strip() == ""
                assert example.input_ids[-1] == tokenizer.end_of_turn_id
