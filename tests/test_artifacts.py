from __future__ import annotations

import json
from pathlib import Path

from fastft.artifacts import save_tokenizer, write_heldout
from fastft.data.conversation import Conversation, Message
from fastft.data.tokenizer import ChatTokenizer
from fastft.files import sha256_of
from fastft.run import Run


def test_the_tokenizer_is_saved_untouched_with_the_template_that_was_trained(tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
                        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")  # fmt: skip
    tokenizer = ChatTokenizer.load(tiny, str(template))
    out = tmp_path / "out"
    out.mkdir()
    save_tokenizer(tokenizer, out)
    assert sha256_of(out / "tokenizer.json") == sha256_of(tiny / "tokenizer.json")
    assert (out / "chat_template.jinja").read_text() == tokenizer.chat_template
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    again = ChatTokenizer.load(out)
    assert again.template_sha256 == tokenizer.template_sha256


def test_the_end_of_turn_is_among_the_stop_tokens(llama_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(llama_tokenizer)
    out = tmp_path / "out"
    out.mkdir()
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": 128001, "temperature": 0.6}))
    save_tokenizer(tokenizer, out)
    settings = json.loads((out / "generation_config.json").read_text())
    assert settings == {"eos_token_id": [tokenizer.end_of_turn_id, 128001], "temperature": 0.6}


def test_held_out_rows_of_every_kind_are_kept_for_the_proofs(tmp_path: Path) -> None:
    said = Message("assistant", "Hello!")
    asked = (Message("user", "Hi"),)
    rows = [
        Conversation((*asked, said), "1"),
        Conversation(asked, "2", chosen=(said,), rejected=(Message("assistant", "No."),)),
        Conversation(asked, "3", rejected=(said,), label=False),
        Conversation(asked, "4"),
        Conversation((), "5", text="A document."),
    ]
    run = Run(tmp_path)
    write_heldout(run, rows)
    user, hello = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
    assert [json.loads(line) for line in run.heldout_path.read_text().splitlines()] == [
        {"messages": [user, hello]},
        {"messages": [user, hello], "rejected": [user, {"role": "assistant", "content": "No."}]},
        {"messages": [user]},
        {"messages": [user]},
        {"text": "A document."},
    ]
