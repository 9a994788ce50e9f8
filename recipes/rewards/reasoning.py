"""A reward of recipes/grpo/qwen3_gsm8k.yaml: whether an answer shows its work and ends with one boxed result."""

import re

_BOXED = re.compile(r"\\boxed\{[^{}]*\}")


def has_form(completions, **_):
    """A third each for at least two lines of work, exactly one \\boxed{…}, and nothing but punctuation after it."""
    return [_share(said[-1]["content"].strip()) for said in completions]


def _share(text):
    boxed = list(_BOXED.finditer(text))
    work = text[: boxed[-1].start()] if boxed else text
    lines = [line for line in work.splitlines() if line.strip()]
    ends = bool(boxed) and not re.search(r"\w", text[boxed[-1].end() :])
    return ((len(lines) >= 2) + (len(boxed) == 1) + ends) / 3
