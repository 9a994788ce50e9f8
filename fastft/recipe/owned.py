"""Fields of TRL's configs that a recipe does not set, each with the reason: what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from fastft.trainers import find_method

_ONE_GPU = "fastft trains on one GPU"
_DISPLAY = "fastft has one progress display; the libraries' own output is in the run's train.log"
_NO_PUSH = "put hub into export.formats and set export.hub_model_id"
_UNUSED = "a flag for scripts of their own; the trainer does not read it"

OWNED: Mapping[str, str] = {
    "output_dir": "checkpoints go into the run directory; set the recipe's own output_dir or --output-dir",
    "resume_from_checkpoint": "resume on the command line: `fastft train RECIPE --resume`",
    "model_init_kwargs": "the model: section says how the model is loaded",
    "trust_remote_code": "set model.trust_remote_code",
    "chat_template_path": "set data.chat_template",
    "dataset_text_field": "map columns in data.columns, e.g. data.columns: {text: body}",
    "dataset_kwargs": "the trainer gets finished token ids and labels from the data: section",
    "eos_token": "the chat template says how a turn ends; set data.chat_template",
    "pad_token": "padding comes from the model's tokenizer; padded places are never trained on",
    "truncation_mode": "set data.truncation",
    "assistant_only_loss": "set data.train_on; assistant turns alone are the default",
    "completion_only_loss": "set data.train_on; assistant turns alone are the default",
    "label_names": "labels are made together with the token ids; set data.train_on",
    "remove_unused_columns": "the trainer gets token ids and labels only, so there are none",
    "include_for_metrics": "it feeds a compute_metrics function, which a recipe has no place for",
    "batch_eval_metrics": "it feeds a compute_metrics function, which a recipe has no place for",
    "length_column_name": "lengths are taken from the token ids",
    "use_cpu": "the device is found by itself; CUDA_VISIBLE_DEVICES= hides a GPU",
    "push_to_hub": _NO_PUSH,
    "hub_model_id": _NO_PUSH,
    "hub_private_repo": _NO_PUSH,
    "hub_strategy": _NO_PUSH,
    "hub_always_push": _NO_PUSH,
    "hub_revision": _NO_PUSH,
    "hub_token": "a secret has no place in a recipe; use `hf auth login` or the variable HF_TOKEN",
    "disable_tqdm": _DISPLAY,
    "log_level": _DISPLAY,
    "log_level_replica": _DISPLAY,
    "log_on_each_node": _ONE_GPU,
    "save_on_each_node": _ONE_GPU,
    "local_rank": _ONE_GPU,
    "deepspeed": _ONE_GPU,
    "fsdp": _ONE_GPU,
    "fsdp_config": _ONE_GPU,
    "parallelism_config": _ONE_GPU,
    "ddp_find_unused_parameters": _ONE_GPU,
    "ddp_bucket_cap_mb": _ONE_GPU,
    "ddp_broadcast_buffers": _ONE_GPU,
    "ddp_static_graph": _ONE_GPU,
    "ddp_backend": _ONE_GPU,
    "ddp_timeout": _ONE_GPU,
    "do_train": _UNUSED,
    "do_eval": "set data.eval_split and training.eval_strategy",
    "do_predict": _UNUSED,
}


@cache
def owned(method: str) -> Mapping[str, str]:
    """Field -> reason, for every method and for this one."""
    return {**OWNED, **find_method(method).owned}
