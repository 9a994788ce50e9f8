"""GGUF files with spoiled bytes, metadata and tensors, loaded by llama.cpp as chat, eval and verify do."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import hostile, spoil_bytes

_KV_STARTS = 24  # bytes: magic, version, counts of tensors and metadata
_NUMBERS = (0, 1, -1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 10**9, 255, 7)


def prepare(folder: Path) -> dict[str, Any]:
    """A small llama with a byte-level vocabulary, and where its header ends."""
    path = folder / "good.gguf"
    write_llama(path)
    _use(path)
    data = path.read_bytes()
    return {"data": data, "header": data.index(b"blk.0.") + 2000}


def write_llama(path: Path, **changed: Any) -> None:
    """A random llama of one layer; `changed` replaces metadata, None leaves it out."""
    import numpy as np

    from fastft.exporters.converter import import_llama_cpp

    gguf = import_llama_cpp("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for key, (add, value) in _metadata(writer).items():
        if (given := changed.get(key, value)) is not None:
            add(given)
    random = np.random.default_rng(0)
    for name, shape in _TENSORS.items():
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32) * 0.05)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_TENSORS = {
    "token_embd.weight": (259, 64), "output_norm.weight": (64,), "blk.0.attn_norm.weight": (64,),
    "blk.0.ffn_norm.weight": (64,), "blk.0.attn_q.weight": (64, 64), "blk.0.attn_k.weight": (32, 64),
    "blk.0.attn_v.weight": (32, 64), "blk.0.attn_output.weight": (64, 64), "blk.0.ffn_gate.weight": (128, 64),
    "blk.0.ffn_up.weight": (128, 64), "blk.0.ffn_down.weight": (64, 128),
}  # fmt: skip


def _metadata(writer: Any) -> dict[str, tuple[Any, Any]]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = [*bytes_to_unicode().values(), "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    return {
        "name": (writer.add_name, "small"), "block_count": (writer.add_block_count, 1),
        "context_length": (writer.add_context_length, 128), "embedding_length": (writer.add_embedding_length, 64),
        "feed_forward_length": (writer.add_feed_forward_length, 128), "head_count": (writer.add_head_count, 4),
        "head_count_kv": (writer.add_head_count_kv, 2), "eps": (writer.add_layer_norm_rms_eps, 1e-5),
        "rope": (writer.add_rope_dimension_count, 16), "vocab_size": (writer.add_vocab_size, 259),
        "tokenizer": (writer.add_tokenizer_model, "gpt2"), "pre": (writer.add_tokenizer_pre, "llama-bpe"),
        "tokens": (writer.add_token_list, tokens), "types": (writer.add_token_types, [1] * 256 + [3] * 3),
        "merges": (writer.add_token_merges, ["h e", "l l"]), "eos": (writer.add_eos_token_id, 257),
        "bos": (writer.add_bos_token_id, 258), "template": (writer.add_chat_template, "{{ messages }}<|im_end|>"),
    }  # fmt: skip


def case(state: dict[str, Any], random: Random, folder: Path, names: list[str]) -> None:
    path = folder / "model.gguf"
    names.append("model.gguf")
    way = random.randrange(10)
    data: bytes = state["data"]
    if way < 4:
        data = spoil_bytes(data[: state["header"]], random, most=3) + data[state["header"] :]
    elif way < 8:
        data = _other_number(data, state["header"], random)
    elif way == 8:
        data = data[: random.randint(0, len(data))]
    elif random.random() < 0.5:
        os.mkfifo(path)
        data = b""
    if data:
        path.write_bytes(data)
    _use(path)


def _other_number(data: bytes, header: int, random: Random) -> bytes:
    """The header with a length, count, type, size or offset in it replaced."""
    spoiled = bytearray(data)
    names = [b"block_count", b"context_length", b"embedding_length", b"feed_forward_length", b"head_count",
             b"head_count_kv", b"rms_epsilon", b"dimension_count", b"vocab_size", b"tokens", b"token_type", b"merges",
             b"eos_token_id", b"bos_token_id", b"chat_template", b"ggml.model", b"ggml.pre", b"token_embd.weight",
             b"attn_q.weight", b"attn_k.weight", b"output_norm.weight", b"ffn_down.weight", b"general.architecture",
             b"alignment"]  # fmt: skip
    for _ in range(random.randint(1, 2)):
        name = random.choice(names)
        at = data.find(name)
        at = random.choice((at - 8, at + len(name) + random.randrange(0, 24, 4), random.randrange(4, _KV_STARTS, 4)))
        number = random.choice(_NUMBERS) % 2**64
        wide = random.random() < 0.4
        piece = struct.pack("<Q", number) if wide else struct.pack("<I", number % 2**32)
        if 4 <= at < header:
            spoiled[at : at + len(piece)] = piece
    return bytes(spoiled)


def _use(path: Path) -> None:
    """What a chat, an evaluation and a verification ask of a file."""
    from fastft.llamacpp import GGUFModel

    with GGUFModel(path) as model:
        assert isinstance(model.metadata, dict)
        ids = model.tokenize("hello, world<|im_end|>")
        model.detokenize(ids, special=True)
        model.is_stop(ids[-1])
        model.next_logprobs(ids[:4], 3)


assert hostile
