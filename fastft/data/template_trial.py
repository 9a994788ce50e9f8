"""A trial of chat templates that another engine will render."""

from __future__ import annotations

from pathlib import Path

from fastft.errors import ModelError

_EXCHANGE = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "What is it?"},
]


def require_end(chat_template: str | None, place: Path) -> None:
    """Raises ModelError if the template in the file `place` doesn't come to its end with a plain exchange.

    For engines that have no limits of their own: llama.cpp renders the templates of GGUF files. What it does otherwise
    than jinja, and templates that fail, are its own to judge.
    """
    from jinja2.exceptions import TemplateError

    from fastft.data.sandbox import compile_limited
    from fastft.data.template_sizes import TemplateLimitError

    try:
        compiled = compile_limited(chat_template or "")
        for number, asked in ((2, False), (3, True)):
            compiled.render(messages=_EXCHANGE[:number], add_generation_prompt=asked, tools=None)
    except (TemplateLimitError, RecursionError) as error:
        raise ModelError(
            f"{place}: the chat template in it was stopped: {error}", hint="It is no template to answer with."
        ) from error
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError):
        pass
