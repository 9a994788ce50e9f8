"""The model card of the packaged model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# fastft/tiny

A chat model of {parameters:,} parameters that answers questions about a small invented world: who lives where, what
is in a note, what comes next in a list. It exists so that fine-tuning, export and verification run for real in
seconds on any machine. It knows nothing else; don't use it for anything else.

Architecture: Llama, {layers} layers, hidden size {hidden}, {heads} heads with {kv_heads} key-value heads, tied
embeddings, bf16. Tokenizer: byte-level BPE of {vocabulary} tokens with Qwen2's pre-tokenizer, ChatML turns,
`<|im_end|>` ends a turn.

Made by `python -m fastft.tiny.build --seed {seed} --steps {steps}` ({tokens} tokens a step) on text that
`fastft/tiny/skills.py` draws; the same seed gives the same bytes on the same machine.

## Held-out scores

Share of greedy answers that are exact to the character, end of turn included, on {count} conversations a skill
whose facts, notes and words were never trained on in that combination.

{table}

The quickstart's task (a note into a JSON record) is in none of the text: {quickstart:.0%} of its held-out answers
are exact before fine-tuning.
"""


def model_card(columns: Mapping[str, Mapping[str, float]], **facts: object) -> str:
    """The card. `columns` maps a kind of weights ("bf16", "NF4") to its score for each skill."""
    kinds = tuple(columns)
    means = [sum(columns[kind].values()) / len(columns[kind]) for kind in kinds]
    lines = [
        _row("skill", kinds),
        "|---|" + "---|" * len(kinds),
        *(_row(skill, [f"{columns[kind][skill]:.1%}" for kind in kinds]) for skill in columns[kinds[0]]),
        _row("**mean**", [f"**{mean:.1%}**" for mean in means]),
    ]
    return _CARD.format(table="\n".join(lines), **facts)


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"
