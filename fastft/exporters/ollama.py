"""An Ollama Modelfile whose prompt text is proven equal to the chat template's, or left to Ollama and said so.

Ollama's templates are Go templates, the model's is jinja. The turn format is read off renderings of the jinja template
and then has to reproduce other renderings exactly; only then is it written as a Go template. That uses nothing but
`if`, `eq` and `range` and no whitespace trimming, so its text is that of the format, literally.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastft.errors import ModelError
from fastft.exporters.ggml import GGUFHeader
from fastft.model_files import read_config

if TYPE_CHECKING:
    from fastft.data.tokenizer import ChatTokenizer

_CONTEXT = 4096  # Ollama reserves memory for the whole context at start, so not the model's 128k
_S, _U, _A, _V = "fastftsystem", "fastftuser", "fastftassistant", "fastftagain"
_PROOFS = (
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi!"), ("user", "And now?\n\nTwo lines, “quoted”, 你好 🙂 {braces}")],
    [
        ("system", "Two\nlines"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d\n- e"),
        ("user", "f"),
    ],
)


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """What stands before and after each role's content, before an answer, and in place of a missing system turn."""

    start: str
    turns: dict[str, tuple[str, str]]
    answer: str
    without_system: str
    default_system: str

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt text of `messages`, as Ollama makes it of `go_template` and SYSTEM."""
        roles = [message["role"] for message in messages]
        text = self.start
        if "system" not in roles:
            text += self.without_system or "".join(self._turn("system", self.default_system))
        return text + "".join(self._turn(m["role"], m["content"]) for m in messages) + self.answer

    def go_template(self) -> str:
        """The format in Ollama's template language."""
        cases = " else ".join(
            f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{'
            for role, (before, after) in self.turns.items()
        )
        opening = f"{{{{ if not .System }}}}{self.without_system}{{{{ end }}}}" if self.without_system else ""
        return f"{self.start}{opening}{{{{ range .Messages }}}}{{{{ {cases} end }}}}{{{{ end }}}}{self.answer}"

    def _turn(self, role: str, content: str) -> str:
        if role == "system" and not content:
            return ""
        before, after = self.turns[role]
        return f"{before}{content}{after}"


def write_modelfile(gguf: Path, model: Path, out: Path) -> str:
    """Write `out`, the Modelfile for `gguf`, from the tokenizer and config in the folder `model`.

    Returns in a few words where its template comes from.
    """
    from fastft.data.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(model)
    config = read_config(model)
    with GGUFHeader(gguf) as header:
        adds_bos = bool(header.flag("tokenizer.ggml.add_bos_token"))
    turns = turn_format(tokenizer, adds_bos=adds_bos)
    lines = [f"FROM ./{gguf.name}"]
    if turns:
        lines.append(f'TEMPLATE """{turns.go_template()}"""')
        lines += [f'SYSTEM """{turns.default_system}"""'] if turns.default_system else []
        source = "derived from the chat template, equal to it on every proof"
    else:
        lines.append("# No TEMPLATE: the chat template has no exact form in Ollama's language; Ollama uses its own.")
        source = "none: the chat template has no exact form in Ollama's language"
    stops = dict.fromkeys(token for token in (tokenizer.end_of_turn, tokenizer.eos_token) if token)
    lines += [f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" for token in stops]
    lines.append(f"PARAMETER num_ctx {min(_CONTEXT, _context_length(config))}")
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return source


def turn_format(tokenizer: ChatTokenizer, *, adds_bos: bool) -> TurnFormat | None:
    """The template as a format Ollama can express, or None where that isn't proven equal.

    `adds_bos`: whether llama.cpp puts BOS before the prompt, so that the template must not.
    """
    try:
        found = _read_off(tokenizer)
        proven = found is not None and all(_equal(tokenizer, found, proof) for proof in _PROOFS)
    except ModelError:  # the template refuses a system turn, say: then Ollama's can't be equal for one
        return None
    if found is None or not proven or not _expressible(found):
        return None
    bos = tokenizer.bos_token
    if not adds_bos or bos is None:
        return found
    return TurnFormat(found.start.removeprefix(bos), found.turns, found.answer, found.without_system,
                      found.default_system)  # fmt: skip


def _read_off(tokenizer: ChatTokenizer) -> TurnFormat | None:
    """Cut renderings at contents that occur nowhere else. None if the pieces don't fit together."""
    dialogue = [("system", _S), ("user", _U), ("assistant", _A), ("user", _V)]
    pieces = _cut(_render(tokenizer, dialogue, True), _S, _U, _A, _V)
    closed = _render(tokenizer, dialogue, False).rpartition(_V)[2]
    after_answer = _render(tokenizer, dialogue[:3], False).rpartition(_A)[2]
    if pieces is None or not after_answer or not pieces[3].startswith(after_answer):
        return None
    before_user = pieces[3].removeprefix(after_answer)
    if not (pieces[1].endswith(before_user) and pieces[2].startswith(closed) and pieces[4].startswith(closed)):
        return None
    bos = tokenizer.bos_token or ""
    start = bos if bos and pieces[0].startswith(bos) else ""
    after_system = pieces[1].removesuffix(before_user)
    turns = {
        "system": (pieces[0].removeprefix(start), after_system),
        "user": (before_user, closed),
        "assistant": (pieces[2].removeprefix(closed), after_answer),
    }
    bare = _render(tokenizer, [("user", _U)], True).partition(_U)[0]
    opening = bare.removeprefix(start).removesuffix(before_user)
    default = _default_system(tokenizer, opening, turns["system"])
    return TurnFormat(start, turns, pieces[4].removeprefix(closed), "" if default else opening, default)


def _default_system(tokenizer: ChatTokenizer, opening: str, around: tuple[str, str]) -> str:
    """The system text the template supplies where there is none, or "" if it supplies none."""
    before, after = around
    if not opening.startswith(before) or not opening.endswith(after):
        return ""
    text = opening.removeprefix(before).removesuffix(after)
    with_text = [("system", text), ("user", _U)]
    same = _render(tokenizer, with_text, True) == _render(tokenizer, with_text[1:], True)
    return text if same else ""


def _cut(text: str, *marks: str) -> list[str] | None:
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        piece, _, text = text.partition(mark)
        pieces.append(piece)
    return [*pieces, text]


def _equal(tokenizer: ChatTokenizer, turns: TurnFormat, conversation: Sequence[tuple[str, str]]) -> bool:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return turns.render(messages) == tokenizer.render(messages, add_generation_prompt=True)


def _render(tokenizer: ChatTokenizer, conversation: Sequence[tuple[str, str]], answer: bool) -> str:
    messages = [{"role": role, "content": content} for role, content in conversation]
    return tokenizer.render(messages, add_generation_prompt=answer)


def _expressible(turns: TurnFormat) -> bool:
    """Whether the literal parts stay literal between triple quotes in a Modelfile and in a Go template."""
    literals = [turns.start, turns.answer, turns.without_system, turns.default_system]
    literals += [part for around in turns.turns.values() for part in around]
    return not any(mark in literal for literal in literals for mark in ("{{", "}}", '"""'))


def _context_length(config: dict[str, object]) -> int:
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, dict) else config
    length = values.get("max_position_embeddings", _CONTEXT)
    return length if isinstance(length, int) else _CONTEXT
