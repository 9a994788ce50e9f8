from __future__ import annotations

from fastft.plan import Shape

LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128, 128256, tied=False)


def test_counts_of_llama_3_8b() -> None:
    # 8,030,261,248 parameters is what Llama-3.1-8B's checkpoint holds.
    assert LLAMA_8B.parameters == 8_030_261_248
    assert LLAMA_8B.linear == 6_979_321_856
    assert LLAMA_8B.lora(16) == 41_943_040
