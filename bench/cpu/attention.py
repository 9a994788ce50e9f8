"""torch's CPU attention, forward and backward, in bfloat16 against float32, by the length of a document.

    OMP_NUM_THREADS=1 python bench/cpu/attention.py

8 heads of 64, causal; the least CPU time of five rounds. fastft/document_attention.py takes float32 up to 384 tokens.
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import scaled_dot_product_attention

LENGTHS = (50, 150, 300, 512, 600, 1024)


def milliseconds(length: int, dtype: torch.dtype) -> float:
    """Of one forward and backward pass over a document."""
    query, key, value = (torch.randn(1, 8, length, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    gradient = torch.randn(1, 8, length, 64, dtype=dtype)
    rounds = max(2, 20_000 // length // 10)
    taken = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds):
            scaled_dot_product_attention(query, key, value, is_causal=True).backward(gradient)
        taken.append((time.process_time() - began) / rounds)
    return 1e3 * min(taken)


def main() -> None:
    print("tokens  bfloat16  float32  times")
    for length in LENGTHS:
        half, whole = (milliseconds(length, dtype) for dtype in (torch.bfloat16, torch.float32))
        print(f"{length:>6}  {half:>5.2f} ms  {whole:>4.2f} ms  {half / whole:>5.2f}")


if __name__ == "__main__":
    main()
