"""How far an export may be from what it was made of. Every number here has a reason beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed, for one type of export. Shares are of positions or prompts, probabilities in nats.

    `tie` is the rule for equal choices: where the export's choice differs from the reference's, and the reference
    itself gives the two tokens log-probabilities closer together than `tie`, the difference is within the type's
    noise and is counted as agreement.
    """

    logprob: float | None  # largest difference on held-out answers, of tokens of at least 5 %; None: no limit
    kl_mean: float  # over all positions, those of the prompts too
    kl_max: float
    top1: float
    tie: float
    greedy: float  # share of greedy answers that are equal token by token
    exact: float  # share of the reference's exact held-out answers that must still be exact
    stops: float  # share of answers that stop where the reference's did, those aside that parted from it at a tie
    perplexity: float  # relative difference on the held-out answers


# The reference of merged_16bit is the adapter on its base in float32; that of a GGUF is the merged model in float32.
# The numbers in brackets are what faithful exports of fastft/tiny gave, fine-tuned on the quickstart's data, on 50
# held-out and 8 built-in prompts: the difference of a log-probability on held-out and on built-in answers, KL mean
# and largest. They grow as models shrink, so larger models stay within. bench/export/proof_figures.py measures them,
# and bench/results/proof_figures.md holds a run's.
LIMITS = {
    # A copy: the same files give the same numbers.
    "adapter": Limits(1e-4, 1e-8, 1e-6, 1.0, 1e-4, 1.0, 1.0, 1.0, 1e-6),
    # Every weight is rounded once, to 8 bits (bfloat16) or 11 (0.03, 0.05; KL 1.5e-5, 3e-3): an answer changes only
    # at a tie.
    "merged_16bit": Limits(0.2, 2e-4, 2e-2, 1.0, 0.15, 1.0, 1.0, 1.0, 0.01),
    # The same numbers, in llama.cpp (3e-5; KL 8e-8, 1e-6).
    "f32": Limits(1e-3, 1e-6, 2e-4, 1.0, 0.01, 1.0, 1.0, 1.0, 1e-3),
    # The same weights; llama.cpp rounds activations to 11 bits (0.004, 0.02; KL 4e-7, 4e-5).
    "f16": Limits(1e-2, 1e-5, 2e-3, 1.0, 0.05, 1.0, 1.0, 1.0, 2e-3),
    # For bfloat16 weights llama.cpp rounds activations to 8 bits (0.05, 0.06; KL 2e-5, 4e-3).
    "bf16": Limits(0.2, 2e-4, 5e-2, 1.0, 0.25, 1.0, 1.0, 1.0, 0.01),
    # The base's type, usually bfloat16, and the LoRA in 32 bits (0.03; KL 2e-5, 1e-3).
    "gguf_lora": Limits(0.2, 2e-4, 5e-2, 1.0, 0.25, 1.0, 1.0, 1.0, 0.01),
    # 8 bits a weight with a scale for each 32 (0.2, 0.4; KL 5e-4, 0.07).
    "q8_0": Limits(1.0, 5e-3, 0.7, 0.99, 0.25, 0.9, 0.95, 0.9, 0.02),
    # From here on fewer bits than the weights have; the export must still talk like the model, and another word here
    # and there is what was asked for. (KL 3e-3, 0.2)
    "q6_k": Limits(None, 2e-2, 2.0, 0.97, 0.3, 0.8, 0.9, 0.9, 0.05),
    # (KL 8e-3 to 0.01, 0.9)
    "q5_k_m": Limits(None, 6e-2, 5.0, 0.94, 0.4, 0.65, 0.85, 0.9, 0.12),
    "q5_k_s": Limits(None, 6e-2, 5.0, 0.94, 0.4, 0.65, 0.85, 0.9, 0.12),
    "q5_0": Limits(None, 6e-2, 5.0, 0.94, 0.4, 0.65, 0.85, 0.9, 0.12),
    # (KL 0.02 to 0.04, 3)
    "q4_k_m": Limits(None, 0.15, 8.0, 0.9, 0.5, 0.5, 0.8, 0.9, 0.25),
    "q4_k_s": Limits(None, 0.2, 12.0, 0.88, 0.5, 0.5, 0.8, 0.85, 0.3),
    "q4_0": Limits(None, 0.2, 12.0, 0.88, 0.5, 0.5, 0.8, 0.85, 0.3),
    "merged_4bit": Limits(None, 0.2, 12.0, 0.88, 0.5, 0.5, 0.8, 0.85, 0.3),
    # (KL 0.06, 3)
    "q3_k_m": Limits(None, 0.4, 16.0, 0.8, 0.7, 0.35, 0.7, 0.8, 0.5),
    # (KL 0.2, 11)
    "q2_k": Limits(None, 1.2, 30.0, 0.6, 1.0, 0.15, 0.5, 0.7, 1.5),
}

# Prompts that the model wasn't trained for leave it unsure, and then the same noise moves its log-probabilities more
# (0.02 in f16). Only where a run has no held-out conversations must such prompts do.
ELSEWHERE = 5.0

# Where a model is too large to be the reference in float32, it is computed in bfloat16; its own noise is then
# added to what is allowed: about 0.2 nats a log-probability.
BFLOAT16_ARITHMETIC = Limits(0.5, 2e-2, 0.5, 0.97, 0.3, 0.8, 0.9, 0.95, 0.02)


def limits_for(kind: str, *, reference_dtype: str) -> Limits:
    """The row for `kind`; each limit at least that of bfloat16 arithmetic if the reference was computed in it."""
    return LIMITS[kind] if reference_dtype == "float32" else looser(LIMITS[kind], BFLOAT16_ARITHMETIC)


def looser(row: Limits, loose: Limits) -> Limits:
    """Of each limit the one that allows more."""
    return Limits(
        logprob=None if row.logprob is None or loose.logprob is None else max(row.logprob, loose.logprob),
        kl_mean=max(row.kl_mean, loose.kl_mean),
        kl_max=max(row.kl_max, loose.kl_max),
        top1=min(row.top1, loose.top1),
        tie=max(row.tie, loose.tie),
        greedy=min(row.greedy, loose.greedy),
        exact=min(row.exact, loose.exact),
        stops=min(row.stops, loose.stops),
        perplexity=max(row.perplexity, loose.perplexity),
    )


def misses_allowed(share: float, count: int) -> int:
    """How many of `count` may differ: rounded up, so that a lossy type may miss one of a few, an exact type none."""
    return math.ceil((1 - share) * count - 1e-9)
