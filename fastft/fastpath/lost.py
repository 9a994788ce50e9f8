"""One thing that isn't as fast as it could be, and what each such thing costs.

Figures are those of Unsloth 2026.10.9's own sources and of measured length distributions; where nobody measured, none
is given.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

UNPACKED = "1.7 to 2.8 times as many tokens are computed for chats of usual lengths"
BY_DOCUMENT = "2.2 to 2.6 times slower than torch's varlen kernel on an H100"  # unsloth/utils/attention_dispatch.py
RECOMPUTED = "1.27 to 1.45 times the time of a step"
UNFUSED = "PEFT's own code runs there, with more kernels and more memory a layer"
GENERIC = "its layers run through transformers' and PEFT's code, compiled, without the hand-written kernels"
STATES = 16  # bytes a trained parameter: weight, gradient and Adam's two moments in float32
_LOGITS = 10  # bytes a logit: 2 in 16 bits, 4 in float32, 4 of their gradient


@dataclass(frozen=True, slots=True)
class Lost:
    """`what` is off or slow, because of `cause`, which `cost`s."""

    what: str
    cause: str
    cost: str

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}; {self.cost}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def full_logits(tokens: int, vocabulary: int) -> str:
    """What computing every logit costs for so many tokens at once."""
    return f"about {_LOGITS * tokens * vocabulary / 1e9:.2g} GB for the logits of {tokens:,} tokens"


def trained_whole(parameters: int) -> str:
    """What training a matrix whole costs with Adam in float32."""
    return f"about {STATES * parameters / 1e9:.1f} GB for weight, gradient and Adam's moments in float32"
