"""What other tools call things, and what they are called here. Recognised only to say the right name.

Keys that are spelled as here need no entry: a key that is valid in another section is sent there anyway.
A key written "section.key" holds for that section only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fastft.recipe.foreign_values import NO_PPO


class Ours(NamedTuple):
    """`target` is "section.key", a section, or "" if a recipe has nothing of the kind; `note` says what differs."""

    target: str
    note: str = ""

    @property
    def text(self) -> str:
        said = f"In fastft it is {self.target}" if self.target else ""
        return f"{said}: {self.note}" if said and self.note else said or self.note


_BATCH = Ours("training.per_device_train_batch_size")
_EPOCHS = Ours("training.num_train_epochs")
_RATE = Ours("training.learning_rate")
_OPTIM = Ours("training.optim", "the optimiser's name, e.g. adamw_8bit")
_SCHEDULE = Ours("training.lr_scheduler_type", "the schedule's name, e.g. cosine")
_LENGTH = Ours("model.max_seq_length", "it is all that needs to be set")
_MODEL = Ours("model.model_name")
_DATA = Ours("data.path", "a file, folder, glob or Hub id, or a list; format, name and split are keys beside it")
_R = Ours("lora.r")
_TARGETS = Ours("lora.target_modules", "a list of module names, auto or all-linear")
_SEED = Ours("training.seed")
_EVAL = Ours("data.eval_split", "a share, a count, a file, or a split on the Hub")
_TRAIN_ON = Ours("data.train_on", "assistant (the default), last, tool_calls or all")
_CHECKPOINTING = Ours("lora.use_gradient_checkpointing", "unsloth, true or false")
_RESUME = Ours("", "Resume on the command line: `fastft train RECIPE --resume`")
_TRACKER = Ours("training.report_to", "the tracker's name; it is set up by its own environment variables")
_PACKING = Ours("training.packing")
_WARMUP = Ours("training.warmup_steps", "a number below 1 is a share of all steps")
_FULL = "no lora: section and model.full_finetuning: true train every weight"
_ADAPTER = Ours("lora", f"a lora: section with model.load_in_4bit: true is QLoRA, with load_in_16bit LoRA; {_FULL}")
_ATTENTION = Ours("", "Leave it out: Unsloth chooses the attention kernel itself")
_TOKENS = Ours("", "Leave it out: special tokens come from the model's tokenizer and chat template")
_CODE = Ours("model.trust_remote_code")
_REVISION = Ours("model.revision")
_TEMPLATE = Ours("data.chat_template", "null for the model's own, a name Unsloth knows, or a .jinja file")
_ONE_FILE = Ours("", "Leave it out: prepared data is kept in the user's cache directory by itself")
_CUT_ROWS = Ours("data.path", "write [{path: FILE, count: 1000}] to take that many rows, chosen at random")

_METHODS = "sft, pretrain, dpo, orpo, cpo (SimPO too), kto, reward, grpo or rloo"
_METHOD = Ours("method", f"{_METHODS}; ipo is dpo with training.loss_type: ipo")
_BETA = Ours("training.beta")
_WANTED = Ours("training.desirable_weight", "with method: kto")
_UNWANTED = Ours("training.undesirable_weight", "with method: kto")
_SMOOTHING = Ours("training.label_smoothing", "with a loss_type that reads it: robust, exo_pair, aot")
_WITH_SFT = Ours("training.loss_type", "write [sigmoid, sft], with training.loss_weights: [1, ALPHA]")
_REFERENCE = Ours("", "Leave it out: the reference is the model as it is when training starts")

AXOLOTL: Mapping[str, Ours] = {
    "base_model": _MODEL,
    "base_model_config": _MODEL,
    "revision_of_model": _REVISION,
    "model_type": Ours("", "Leave it out: the model's own config says it"),
    "tokenizer_type": Ours("", "Leave it out: the tokenizer comes with the model"),
    "tokenizer_config": Ours("", "Leave it out: the tokenizer comes with the model"),
    "strict": Ours("", "Leave it out: a recipe is always checked strictly"),
    "adapter": _ADAPTER,
    "lora_model_dir": Ours("", "A run starts from the base model; `--resume` goes on with an unfinished run"),
    "sequence_len": _LENGTH,
    "sample_packing": _PACKING,
    "eval_sample_packing": Ours("training.eval_packing"),
    "pad_to_sequence_len": Ours("training.pad_to_multiple_of", "rarely needed; packing leaves almost no padding"),
    "micro_batch_size": _BATCH,
    "eval_batch_size": Ours("training.per_device_eval_batch_size"),
    "num_epochs": _EPOCHS,
    "optimizer": _OPTIM,
    "lr_scheduler": _SCHEDULE,
    "lora_r": _R,
    "lora_target_modules": _TARGETS,
    "lora_target_linear": Ours("lora.target_modules", "write all-linear"),
    "lora_modules_to_save": Ours("lora.modules_to_save"),
    "lora_layers_to_transform": Ours("lora.layers_to_transform"),
    "peft_use_dora": Ours("lora.use_dora"),
    "peft_use_rslora": Ours("lora.use_rslora"),
    "datasets": _DATA,
    "test_datasets": _EVAL,
    "pretraining_dataset": Ours("data.path", "with method: pretrain, which learns raw text whole"),
    "dataset_prepared_path": _ONE_FILE,
    "shuffle_merged_datasets": Ours("training.shuffle_dataset"),
    "val_set_size": _EVAL,
    "train_on_inputs": _TRAIN_ON,
    "chat_template_jinja": _TEMPLATE,
    "special_tokens": _TOKENS,
    "tokens": _TOKENS,
    "evals_per_epoch": Ours("training.eval_strategy", "steps, with training.eval_steps as a share, e.g. 0.25"),
    "saves_per_epoch": Ours("training.save_strategy", "steps, with training.save_steps as a share, e.g. 0.25"),
    "flash_attention": _ATTENTION,
    "xformers_attention": _ATTENTION,
    "sdp_attention": _ATTENTION,
    "wandb_project": _TRACKER,
    "wandb_entity": _TRACKER,
    "wandb_name": Ours("training.run_name"),
    "wandb_run_id": _TRACKER,
    "wandb_watch": _TRACKER,
    "wandb_log_model": _TRACKER,
    "mlflow_tracking_uri": _TRACKER,
    "loss_watchdog_threshold": Ours("", "Leave it out: a run whose loss is no number stops by itself"),
    "loss_watchdog_patience": Ours("", "Leave it out: a run whose loss is no number stops by itself"),
    "early_stopping_patience": Ours("early_stopping.patience"),
    "rl": _METHOD,
    "dpo_beta": _BETA,
    "rl_beta": _BETA,
    "orpo_alpha": Ours("training.beta", "with method: orpo; TRL calls the paper's lambda so"),
    "kto_desirable_weight": _WANTED,
    "kto_undesirable_weight": _UNWANTED,
    "dpo_use_weighting": Ours("training.use_weighting"),
    "dpo_label_smoothing": _SMOOTHING,
    "dpo_norm_loss": Ours("training.loss_type", "write sigmoid_norm"),
    "rpo_alpha": _WITH_SFT,
    "cpo_simpo_gamma": Ours("training.simpo_gamma", "with method: cpo and training.loss_type: simpo"),
    "precompute_ref_log_probs": Ours("training.precompute_ref_log_probs"),
    "plugins": Ours("", "Leave it out: there are no plug-ins"),
    "liger_rope": Ours("", "Leave it out: Unsloth brings its own kernels"),
    "is_llama_derived_model": Ours("", "Leave it out: the model's own config says it"),
    "max_packed_sequence_len": _LENGTH,
    "excess_length_strategy": Ours("data.truncation", "keep_start, keep_end, drop or split_turns"),
}

LLAMA_FACTORY: Mapping[str, Ours] = {
    "model_name_or_path": _MODEL,
    "model_revision": _REVISION,
    "stage": Ours("method", f"{_METHODS}; rm is reward, pt is pretrain"),
    "pref_beta": _BETA,
    "pref_ftx": _WITH_SFT,
    "pref_bco_weight": Ours("training.loss_type", "write [sigmoid, bco_pair], with training.loss_weights"),
    "pref_loss": Ours(
        "training.loss_type",
        "sigmoid, hinge, ipo, … of method: dpo; orpo and kto_pair are method: orpo and kto, simpo is method: cpo with "
        "loss_type: simpo",
    ),
    "kto_chosen_weight": _WANTED,
    "kto_rejected_weight": _UNWANTED,
    "ld_alpha": Ours("training.ld_alpha"),
    "ref_model": _REFERENCE,
    "ref_model_adapters": _REFERENCE,
    "ref_model_quantization_bit": _REFERENCE,
    "reward_model": Ours("rewards", "what answers are rewarded for, with method: grpo or rloo"),
    "ppo_epochs": Ours("method", NO_PPO),
    "ppo_buffer_size": Ours("method", NO_PPO),
    "ppo_score_norm": Ours("method", NO_PPO),
    "ppo_target": Ours("method", NO_PPO),
    "ppo_whiten_rewards": Ours("method", NO_PPO),
    "finetuning_type": _ADAPTER,
    "cutoff_len": _LENGTH,
    "template": _TEMPLATE,
    "dataset": _DATA,
    "dataset_dir": Ours("data.path", "the file or folder itself, beside the recipe or under the current folder"),
    "eval_dataset": _EVAL,
    "max_samples": _CUT_ROWS,
    "val_size": _EVAL,
    "overwrite_cache": _ONE_FILE,
    "overwrite_output_dir": Ours("", "A finished run is never overwritten; choose another output_dir"),
    "preprocessing_num_workers": Ours("training.dataset_num_proc"),
    "tokenized_path": _ONE_FILE,
    "streaming": Ours("", "Leave it out: rows are read as they are needed"),
    "train_on_prompt": _TRAIN_ON,
    "mask_history": Ours("data.train_on", "write last"),
    "neat_packing": _PACKING,
    "lora_rank": _R,
    "lora_target": _TARGETS,
    "additional_target": Ours("lora.modules_to_save"),
    "quantization_bit": Ours("model.load_in_4bit", "or model.load_in_8bit"),
    "quantization_type": Ours("model.load_in_4bit", "always NF4"),
    "double_quantization": Ours("model.load_in_4bit", "always with double quantization"),
    "pure_bf16": Ours("model.dtype", "write bfloat16"),
    "flash_attn": _ATTENTION,
    "use_unsloth": Ours("", "Leave it out: Unsloth is always used"),
    "use_unsloth_gc": _CHECKPOINTING,
    "enable_liger_kernel": Ours("", "Leave it out: Unsloth brings its own kernels"),
    "disable_gradient_checkpointing": _CHECKPOINTING,
    "plot_loss": Ours("", "Leave it out: every step is in the run's metrics.jsonl"),
    "export_dir": Ours("export", "exports go into the run directory; name them in export.formats"),
    "export_size": Ours("export", "export.formats names what is made"),
    "enable_thinking": Ours("data.chat_template", "the template decides"),
    "resize_vocab": _TOKENS,
    "freeze_trainable_layers": Ours("lora.layers_to_transform", "indices of the layers that get updates"),
}

TRL_CLI: Mapping[str, Ours] = {
    "model_name_or_path": _MODEL,
    "model_revision": _REVISION,
    "torch_dtype": Ours("model.dtype"),
    "attn_implementation": _ATTENTION,
    "use_peft": Ours("lora", f"a lora: section turns it on; {_FULL}"),
    "lora_r": _R,
    "lora_target_modules": _TARGETS,
    "lora_target_parameters": _TARGETS,
    "lora_modules_to_save": Ours("lora.modules_to_save"),
    "lora_task_type": Ours("", "Leave it out: it is always a causal language model"),
    "bnb_4bit_quant_type": Ours("model.load_in_4bit", "always NF4"),
    "use_bnb_nested_quant": Ours("model.load_in_4bit", "always with double quantization"),
    "bnb_4bit_quant_storage": Ours("model.load_in_4bit"),
    "dataset_name": _DATA,
    "dataset_config": Ours("data.name"),
    "dataset_config_name": Ours("data.name"),
    "dataset_train_split": Ours("data.split"),
    "dataset_test_split": Ours("data.eval_split"),
    "dataset_streaming": Ours("", "Leave it out: rows are read as they are needed"),
    "datasets": _DATA,
}

UNSLOTH: Mapping[str, Ours] = {
    "training.max_seq_length": Ours("training.max_length", "model.max_seq_length is what the model is set up for"),
    "dataset": _DATA,
    "local_dataset": _DATA,
    "format_type": Ours("data.format"),
    "training_type": _ADAPTER,
    "num_epochs": _EPOCHS,
    "batch_size": _BATCH,
    "random_seed": _SEED,
    "train_on_completions": _TRAIN_ON,
    "train_on_responses_only": _TRAIN_ON,
    "lora_r": _R,
    "use_loftq": Ours("", "LoftQ is not supported; leave it out"),
    "loftq_config": Ours("", "LoftQ is not supported; leave it out"),
    "vision_all_linear": Ours("", "Vision models are not supported yet; leave it out"),
    "finetune_vision_layers": Ours("", "Vision models are not supported yet; leave it out"),
    "finetune_language_layers": Ours("lora.target_modules"),
    "finetune_attention_modules": Ours("lora.target_modules"),
    "finetune_mlp_modules": Ours("lora.target_modules"),
    "logging": _TRACKER,
    "enable_wandb": _TRACKER,
    "wandb_project": _TRACKER,
    "wandb_token": Ours("", "A secret has no place in a recipe; use the variable WANDB_API_KEY"),
    "hf_token": Ours("", "A secret has no place in a recipe; use `hf auth login` or the variable HF_TOKEN"),
    "enable_tensorboard": _TRACKER,
    "tensorboard_dir": _TRACKER,
    "fast_inference": Ours("", "Leave it out: training does not use vLLM"),
    "gpu_memory_utilization": Ours("", "Leave it out: training does not use vLLM"),
    "save_method": Ours("export.formats"),
    "lora.gradient_checkpointing": _CHECKPOINTING,
    "model.use_gradient_checkpointing": _CHECKPOINTING,
}

TORCHTUNE: Mapping[str, Ours] = {
    "_component_": Ours("", "Components are torchtune's; name the model in model.model_name, the data in data.path"),
    "tokenizer": Ours("", "Leave it out: the tokenizer comes with the model"),
    "checkpointer": Ours("model.model_name", "a Hub id or a local folder; checkpoints go into the run directory"),
    "checkpoint_dir": _MODEL,
    "dataset": _DATA,
    "batch_size": _BATCH,
    "epochs": _EPOCHS,
    "max_steps_per_epoch": Ours("training.max_steps"),
    "lr": _RATE,
    "optimizer": _OPTIM,
    "lr_scheduler": _SCHEDULE,
    "num_warmup_steps": _WARMUP,
    "loss": Ours("training.loss_type"),
    "packed": _PACKING,
    "lora_rank": _R,
    "lora_attn_modules": _TARGETS,
    "apply_lora_to_mlp": _TARGETS,
    "apply_lora_to_output": _TARGETS,
    "shuffle": Ours("training.shuffle_dataset"),
    "compile": Ours("training.torch_compile"),
    "metric_logger": _TRACKER,
    "log_every_n_steps": Ours("training.logging_steps"),
    "log_peak_memory_stats": Ours("", "Leave it out: the manifest holds the peak"),
    "device": Ours("", "Leave it out: the device is found by itself"),
    "enable_activation_checkpointing": _CHECKPOINTING,
    "enable_activation_offloading": Ours("training.activation_offloading"),
    "profiler": Ours("", "Leave it out: there is no profiler section"),
    "save_adapter_weights_only": Ours("training.save_only_model"),
    "max_seq_len": _LENGTH,
    "train_on_input": _TRAIN_ON,
    "clip_grad_norm": Ours("training.max_grad_norm"),
}

# Names that TRL, transformers and PEFT once had, or that their users abbreviate to.
FORMER: Mapping[str, Ours] = {
    "evaluation_strategy": Ours("training.eval_strategy"),
    "warmup_ratio": _WARMUP,
    "group_by_length": Ours("training.train_sampling_strategy", "write group_by_length"),
    "dataset_batch_size": Ours("", "Leave it out: TRL no longer has it"),
    "per_gpu_train_batch_size": _BATCH,
    "per_gpu_eval_batch_size": Ours("training.per_device_eval_batch_size"),
    "logging_dir": Ours("", "Leave it out: metrics go into the run directory"),
    "no_cuda": Ours("", "The device is found by itself; CUDA_VISIBLE_DEVICES= hides a GPU"),
    "tokenizer_name": Ours("", "Leave it out: the tokenizer comes with the model"),
    "max_prompt_length": Ours("training.max_length", "of prompt and answer together; TRL has none for prompts alone"),
    "gradient_accumulation": Ours("training.gradient_accumulation_steps"),
    "grad_accum": Ours("training.gradient_accumulation_steps"),
    "model.name": _MODEL,
    "model.path": _MODEL,
    "epochs": _EPOCHS,
    "lr": _RATE,
    "optimiser": _OPTIM,
    "steps": Ours("training.max_steps"),
    "rank": _R,
    "alpha": Ours("lora.lora_alpha"),
    "dropout": Ours("lora.lora_dropout"),
    "peft": Ours("lora"),
    "include_tokens_per_second": Ours("", "Leave it out: tokens per second are always measured"),
    "neftune": Ours("training.neftune_noise_alpha"),
    "gguf": Ours("export.formats", "[gguf], with export.quantization_method"),
    "eval": Ours("evaluation"),
    "dataset_num_workers": Ours("training.dataset_num_proc"),
    "<<": Ours("", "Merge keys are not supported; write the keys out"),
}

TOOLS: Mapping[str, Mapping[str, Ours]] = {
    "Axolotl": AXOLOTL,
    "LLaMA-Factory": LLAMA_FACTORY,
    "TRL's command line": TRL_CLI,
    "Unsloth": UNSLOTH,
    "torchtune": TORCHTUNE,
}


# Values that mean something elsewhere, said as what to write here.


def foreign_key(section: str, key: str) -> Ours | None:
    """What a key of another tool is called here, if it is one. `section` is "" at the top."""
    for table in (*TOOLS.values(), FORMER):
        ours = table.get(f"{section}.{key}") or table.get(key)
        if ours is not None and ours.target != f"{section}.{key}":
            return ours
    return None
