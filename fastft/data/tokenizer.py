"""A model's tokenizer and chat template, without torch: what labels, checks, evaluates and verifies."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastft.data.templates import find_template
from fastft.data.tokenizer_files import check_added_tokens, read_backend, read_json, special_tokens
from fastft.errors import ModelError
from fastft.files import sha256_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Templates that print today's date must render the same on every day, or labels, prompts and fingerprints of one
# run would differ. This is the date Llama 3's own template prints where it is given no clock.
TEMPLATE_DATE = datetime(2024, 7, 26)

_PROBE = "fastftprobe"  # a content no template rewrites: lower-case letters only


class ChatTokenizer:
    """tokenizer.json, special tokens and chat template of one model folder.

    Encoding never adds a token that is not in the text: where a template writes BOS, there is one BOS.
    """

    def __init__(
        self, folder: Path, backend: Tokenizer, specials: Mapping[str, str | None], chat_template: str
    ) -> None:
        self.folder = folder
        self.chat_template = chat_template
        self.bos_token = specials.get("bos_token")
        self.eos_token = specials.get("eos_token")
        self.pad_token = specials.get("pad_token")
        self._backend = backend
        self._unk_token = specials.get("unk_token")
        self._added = backend.get_added_tokens_decoder()

    @classmethod
    def load(cls, folder: Path, chat_template: str | None = None) -> ChatTokenizer:
        """Read the folder; `chat_template` is None (the model's own), a .jinja file or a name Unsloth knows.

        Raises ModelError: files missing or unreadable, no template, a template that fails on a plain exchange
        or never closes an assistant turn with a token of this tokenizer.
        """
        config = read_json(folder / "tokenizer_config.json")
        backend = read_backend(folder)
        check_added_tokens(backend, config, folder)
        specials = special_tokens(config, read_json(folder / "special_tokens_map.json"), backend, folder)
        tokenizer = cls(folder, backend, specials, find_template(folder, config, chat_template))
        tokenizer.check_template(chat_template)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        return self.token_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self.token_id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        return self.token_id(self.pad_token)

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.chat_template.encode()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides what a text is encoded as: vocabulary, special tokens, chat template."""
        named = [self.bos_token, self.eos_token, self.pad_token, self._unk_token, self.end_of_turn]
        added = sorted((token_id, str(token)) for token_id, token in self._added.items())
        vocabulary = sha256_of(self.folder / "tokenizer.json")
        parts = [vocabulary, json.dumps([named, added]), self.chat_template]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def added_ids(self) -> frozenset[int]:
        """Ids of tokens that are recognised as whole strings before the text is split: markers and control tokens."""
        return frozenset(self._added)

    def token_id(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], *, offsets: bool = True) -> list[Encoding]:
        """Encodings, computed on all cores; without offsets it is a tenth faster."""
        encode = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
        return encode(list(texts), add_special_tokens=False)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the ids spell a text byte by byte, adding and leaving out nothing (GPT-2's scheme)."""
        return type(self._backend.decoder).__name__ == "ByteLevel"

    def last_added(self, text: str, start: int, end: int) -> tuple[int, str] | None:
        """(place, token) of the last added token written in `text[start:end]`."""
        matches = list(self._added_text.finditer(text, start, end))
        return (matches[-1].start(), matches[-1].group()) if matches else None

    @cached_property
    def _added_text(self) -> re.Pattern[str]:
        return _any_of([token.content for token in self._added.values()])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def control_token_in(self, text: str) -> str | None:
        """The first control token written out in `text`; encoding would turn it into the token itself."""
        match = self._control_text.search(text)
        return match.group() if match else None

    @cached_property
    def _control_text(self) -> re.Pattern[str]:
        special = [token.content for token in self._added.values() if token.special]
        return _any_of([*special, self.end_of_turn])  # some tokenizers forget to call theirs special

    @cached_property
    def document_start(self) -> list[int]:
        """Ids this tokenizer puts before a plain document (BOS for Llama and Gemma, nothing for Qwen)."""
        framed = self._backend.encode(_PROBE, add_special_tokens=True).ids
        plain = self.encode(_PROBE)
        return framed[: framed.index(plain[0])]

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        now: datetime = TEMPLATE_DATE,
        **variables: Any,
    ) -> str:
        """The prompt text of `messages`; `now` is the date a template may print.

        Raises ModelError if the template refuses the messages.
        """
        return self.render_spans(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, now=now, **variables
        )[0]

    def render_spans(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        now: datetime = TEMPLATE_DATE,
        **variables: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """As `render`, with the [start, end) characters of each `{% generation %}` block (none without such blocks)."""
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        from fastft.data.sandbox import limit_transformers
        from fastft.data.template_sizes import TemplateLimitError

        limit_transformers()
        try:
            texts, blocks = render_jinja_template(
                [list(messages)],
                tools=list(tools) if tools else None,
                chat_template=self.chat_template,
                return_assistant_tokens_mask=self.marks_generation,
                **self._variables(now),
                **variables,
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the chat template is no valid Jinja: line {error.lineno}: {error.message}") from error
        except TemplateLimitError as error:
            raise ModelError(
                f"the chat template was stopped: {error}",
                hint="Templates run in a sandbox with limits (docs/security.md). Set data.chat_template to another.",
            ) from error
        # A template is foreign code run on foreign data: these are what it raises on content it wasn't made for.
        except (
            jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError,
            RuntimeError, MemoryError, SyntaxError,
        ) as error:  # fmt: skip
            reason = f"{error}" or type(error).__name__
            raise ModelError(f"the chat template refuses the messages: {reason}") from error
        return texts[0], cast(list[tuple[int, int]], blocks[0]) if blocks else []

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template marks what the model generates with `{% generation %}`."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.chat_template) is not None

    def prompt_ids(self, messages: Sequence[dict[str, Any]], **variables: Any) -> list[int]:
        """What the model is fed to answer `messages`: the rendering with the generation prompt, encoded."""
        return self.encode(self.render(messages, add_generation_prompt=True, **variables))

    @cached_property
    def end_of_turn(self) -> str:
        """The token the template closes an assistant turn with, read off a rendered turn. Raises ModelError."""
        tail = self._rendered_probe().rpartition(_PROBE)[2]
        for token_id in self.encode(tail):
            if token_id in self._added:
                return self._added[token_id].content
        raise ModelError(
            f"the chat template closes an assistant turn with {tail!r}, which holds no special token of the tokenizer"
            f" in {self.folder}: a model trained with it could not stop",
            hint="Choose a template made for this tokenizer, or leave data.chat_template out for the model's own.",
        )

    @cached_property
    def end_of_turn_id(self) -> int:
        token_id = self.token_id(self.end_of_turn)
        assert token_id is not None  # end_of_turn is read from this vocabulary
        return token_id

    def _variables(self, now: datetime) -> dict[str, Any]:
        """What transformers gives a template: the special tokens by name, and a clock that stands still."""
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        named["unk_token"] = self._unk_token
        present = {name: token for name, token in named.items() if token is not None}
        return present | {"strftime_now": now.strftime}

    def _rendered_probe(self) -> str:
        return self.render([{"role": "user", "content": "question"}, {"role": "assistant", "content": _PROBE}])

    def check_template(self, chosen: str | None) -> None:
        name = f"data.chat_template {chosen!r}" if chosen else f"the model's own chat template (in {self.folder})"
        try:
            rendered = self._rendered_probe()
        except ModelError as error:
            raise ModelError(f"{name} can't write a question and an answer: {error.message}") from error
        if rendered.count(_PROBE) != 1:
            raise ModelError(f"{name} does not write an assistant's turn once, as it is")
        ids = self.encode(rendered)
        if self.bos_token_id is not None and ids[:2] == [self.bos_token_id] * 2:
            raise ModelError(f"{name} writes {self.bos_token} twice at the start")
        _ = self.end_of_turn


def _any_of(strings: Sequence[str]) -> re.Pattern[str]:
    """Matches the longest of `strings` first; matches nothing if there are none."""
    ordered = sorted(strings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
