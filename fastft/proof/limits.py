"""How far an export may be from what it was made of. Every number here has a reason beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed, for one type of export. Shares are of positions or prompts, probabilities in nats.

    `tie` is the rule for equal choices: where the export's choice differs from the reference's, and the reference
    itself gives the two tokens log-probabilities closer together than `tie`, the difference is within the type's
    noise and is counted as agreement.
    """

    logprob: float | None  # largest difference of a log-probability over the ten likeliest tokens; None: no limit
    kl_mean: float
    kl_max: float
    top1: float
    tie: float
    greedy: float  # share of greedy answers that are equal token by token
    exact_loss: float  # how much smaller the share of exact held-out answers may be
    stops: float  # share of answers that stop where the reference's did


# The reference of merged_16bit is the adapter on its base in float32; that of a GGUF is the merged model in float32.
LIMITS = {
    # Weights are rounded once to 8 (bfloat16) or 11 bits; logits of small and large models then move by some
    # hundredths, never so far that an answer changes except at a tie.
    "merged_16bit": Limits(0.25, 2e-3, 5e-2, 1.0, 0.15, 1.0, 0.0, 1.0),
    # The same 16-bit weights: only the order of additions and llama.cpp's 16-bit activations differ.
    "f16": Limits(1e-2, 1e-5, 1e-3, 1.0, 1e-2, 1.0, 0.0, 1.0),
    # llama.cpp multiplies bfloat16 weights with activations rounded to bfloat16 (8 bits), so results are coarser.
    "bf16": Limits(0.25, 2e-3, 5e-2, 1.0, 0.15, 1.0, 0.0, 1.0),
    # 8 bits a weight with a scale for each 32: llama.cpp's own tables give a mean KL of 1e-3 and less.
    "q8_0": Limits(None, 1e-2, 0.5, 0.98, 0.25, 0.9, 0.05, 0.98),
    # 4 to 6 bits a weight: mean KL 0.02 to 0.1 on 1B to 8B models; small models lose more. It must still talk
    # like the model, but a different word here and there is what was asked for.
    "q4_k_m": Limits(None, 0.3, 8.0, 0.8, 1.0, 0.0, 0.5, 0.8),
}

# Where a model is too large to be the reference in float32, it is computed in bfloat16; its own noise is then
# added to what is allowed: about 0.2 nats a log-probability.
BFLOAT16_ARITHMETIC = Limits(0.5, 2e-2, 0.5, 0.97, 0.3, 0.8, 0.05, 0.98)


def limits_for(kind: str, *, reference_dtype: str) -> Limits:
    """The row for `kind`; each limit at least that of bfloat16 arithmetic if the reference was computed in it."""
    row = LIMITS[kind]
    if reference_dtype == "float32":
        return row
    loose = BFLOAT16_ARITHMETIC
    return Limits(
        logprob=None if row.logprob is None else max(row.logprob, loose.logprob or 0.0),
        kl_mean=max(row.kl_mean, loose.kl_mean),
        kl_max=max(row.kl_max, loose.kl_max),
        top1=min(row.top1, loose.top1),
        tie=max(row.tie, loose.tie),
        greedy=min(row.greedy, loose.greedy),
        exact_loss=max(row.exact_loss, loose.exact_loss),
        stops=min(row.stops, loose.stops),
    )
