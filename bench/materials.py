"""What the training benchmarks train: a model of random weights, and chat rows of words from a Markov chain.

Random weights cost the same time and memory as real ones. The text has a structure that can be learned (every word is
followed by one of four), so that the arms' losses can be compared: random tokens teach nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 2000
_FOLLOWERS = 4
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_AROUND = 12  # tokens of the template around a question and an answer, a little high


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama type. `parameters` follow; `vocabulary` may be larger than the tokenizer's, as in real models."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal lengths of rows in tokens, cut to 24 … `longest`; `spread` 0 makes all rows `longest`."""

    median: int
    spread: float
    longest: int

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        if not self.spread:
            return np.full(count, self.longest)
        drawn = random.lognormal(np.log(self.median), self.spread, count)
        return np.clip(drawn, 24, self.longest).astype(int)


def words() -> list[str]:
    """The same 2,000 words of two to four syllables each time."""
    random = np.random.default_rng(1)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["".join(random.choice(syllables, random.integers(2, 5)))] = None
    return list(found)


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE that knows every word as one token, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" user assistant " + " ".join(words())] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)


def make_model(folder: Path, size: Size, tokenizer: Path | None = None, *, four_bit: bool = False) -> None:
    """Random weights in bf16 with a tokenizer: that in the folder `tokenizer`, or a small one made here.

    With `four_bit` the projections are stored as NF4, so that every arm loads a quarter of the bytes.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    if tokenizer is None:
        make_tokenizer(folder)
    else:
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    loaded = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        max_position_embeddings=8192, tie_word_embeddings=size.tied, bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        eos_token_id=loaded.eos_token_id, pad_token_id=loaded.pad_token_id, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # 8B parameters in float32 would take twice the memory, for nothing
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    del model
    if four_bit:
        _store_as_nf4(folder)


def _store_as_nf4(folder: Path) -> None:
    """Replace the folder's weights by NF4 ones, as bitsandbytes and transformers store them."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, **four_bit_options())
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    model.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def four_bit_options() -> dict[str, Any]:
    """Arguments of from_pretrained for QLoRA, as the documentation of PEFT and bitsandbytes shows them."""
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    device = {"": 0} if torch.cuda.is_available() else {"": "cpu"}
    return {"quantization_config": config, "dtype": torch.bfloat16, "device_map": device}


def write_rows(path: Path, tokenizer: Path, lengths: Lengths, count: int, seed: int = 0) -> None:
    """Questions and answers of Markov text; somewhat more than half of a row's tokens are the question's."""
    from tokenizers import Tokenizer

    random = np.random.default_rng(seed)
    known = words()
    coded = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode_batch([f" {word}" for word in known])
    cost = np.array([len(encoding.ids) for encoding in coded])
    following = np.random.default_rng(2).integers(0, WORDS, (WORDS, _FOLLOWERS))
    with path.open("w", encoding="utf-8") as file:
        for length in lengths.draw(random, count):
            room = max(4, int(length) - _AROUND)
            asked, answered = _texts(random, following, cost, known, (room * 11 // 20, room - room * 11 // 20))
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
            file.write(json.dumps({"messages": turns}) + "\n")


def _texts(
    random: np.random.Generator, following: np.ndarray, cost: np.ndarray, known: Sequence[str], rooms: Sequence[int]
) -> Iterator[str]:
    """A text for each room, together one walk: as many words as their tokens have room, at least one."""
    state = int(random.integers(WORDS))
    for room in rooms:
        chosen, used = [known[state]], int(cost[state])
        for step in random.integers(0, _FOLLOWERS, room).tolist():
            state = int(following[state, step])
            used += int(cost[state])
            if used > room:
                break
            chosen.append(known[state])
        yield " ".join(chosen)
