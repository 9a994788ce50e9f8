"""The only file that imports unsloth. Every workaround for a dependency lives here, with its end condition."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft.errors import ModelError
from fastft.startup import light_imports

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_unsloth() -> Any:
    """Import unsloth, which must come before transformers, trl and peft. Returns FastLanguageModel.

    Raises ModelError with the way out if the installed unsloth has no backend for this machine.
    """
    from fastft.data.sandbox import limit_transformers
    from fastft.model_code import forbid_model_code

    _quieten_libraries()
    try:
        with light_imports():
            from unsloth import FastLanguageModel
        forbid_model_code()
        limit_transformers()
    except (NotImplementedError, RuntimeError, ImportError, MemoryError, OSError) as error:
        if "failed to map segment" in str(error) or isinstance(error, MemoryError):
            raise ModelError(
                f"there is too little memory to import unsloth: {str(error).strip() or 'MemoryError'}",
                hint="Importing takes about 3 GB of address space beyond what is used: see `ulimit -v`, and the "
                "limits of the container or job.",
            ) from None
        raise ModelError(
            f"unsloth can't be imported on this machine: {str(error).strip().splitlines()[0]}",
            hint="Install with uv (plain pip picks an older unsloth, which refuses to run without a GPU): "
            "pip install uv && uv sync",
        ) from error
    return FastLanguageModel


def _quieten_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch's threads wait for each other by spinning. Beside any other work on the machine that makes the
    # steps of a small model several times slower; a short spin keeps the speed alone and loses little beside others.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Batches without padding have ever other sizes, and oneDNN keeps kernels for 1,024 of them: the
    # quickstart's manifest tells a peak of 2.1 GB with this variable at 1024, and of 1.7 GB so.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # that ORPO and CPO may change is for us to follow
    # Unsloth writes its compiled trainers into the current folder unless told otherwise.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastft" / "unsloth_compiled"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))
    # Kernels compiled for this GPU, which the next run takes. TORCHINDUCTOR_CACHE_DIR would be unset by Unsloth again.
    os.environ.setdefault("UNSLOTH_MEGA_CACHE_DIR", str(cache.with_name("kernels")))
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_adapter_in_fp32(model: Any) -> None:
    """Trainable weights in float32, as Unsloth keeps them on a GPU.

    TRL 1.15's SFTTrainer casts the LoRA weights of a 4-bit model to bfloat16, in which an AdamW step at the usual
    learning rates is often lost to rounding, and which a resumed run doesn't restore (PEFT loads them in float32).
    Goes when TRL stops casting (see the note on peft issue 2889 in its sft_trainer.py).
    """
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def reference_is_the_base(model: Any) -> None:
    """Let trainers that compare with a reference take the model without its adapter, where that is the same.

    TRL 1.15 copies the adapter into a frozen second one for any PEFT model. A LoRA that starts at zero changes nothing,
    so switching it off gives the same reference without the copy's memory. One that was trained or initialised
    otherwise does change something, and keeps the copy. Goes when TRL looks at what the adapter starts from.
    """
    if "ref" not in getattr(model, "peft_config", {}):
        return
    second = [p for name, p in model.named_parameters() if ".default." in name and ("lora_B" in name or "_B." in name)]
    whole = any("modules_to_save" in name for name, _ in trainable_parameters(model))
    if second and not whole and not any(p.any() for p in second):
        model.delete_adapter("ref")


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Let a model that was trained generate, as it did within the trainer.

    Embeddings or an output trained whole are in float32 then, and only autocast, which the trainer has on, fits them to
    the 16-bit layers beside them. TRL's loss of the router is off: transformers 5.17 computes it while generating too,
    and fails at a mask longer than the step. Goes when TRL leaves `output_router_logits` of the config alone.
    """
    import torch

    config = model.config.get_text_config()
    router = getattr(config, "output_router_logits", False)
    if router:
        config.output_router_logits = False
    half = next((p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    whole = any(p.dtype == torch.float32 and "lora_" not in name for name, p in trainable_parameters(model))
    with torch.autocast(model.device.type, dtype=half, enabled=half is not None and whole):
        yield
    if router:  # answers may be asked for in the midst of training
        config.output_router_logits = router


def trainable_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def classifier_options(classifies: bool) -> dict[str, Any]:
    """What FastLanguageModel takes for a model with one score as its output; its CPU backend doesn't know it."""
    return {"num_labels": 1} if classifies and not uses_cpu_backend() else {}


def as_classifier(loaded: Any, seed: int) -> Any:
    """The model with a score in place of its language head, its layers left as Unsloth loaded them.

    `seed` is that of the new head.

    On a GPU Unsloth does this itself. Its CPU backend loads causal language models only, and its get_peft_model asks
    for their `prepare_inputs_for_generation`. Goes when unsloth_zoo/cpu/loader.py takes num_labels.
    """
    if not uses_cpu_backend():
        return loaded
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded.config.num_labels = 1
    with torch.device("meta"):
        classifier: Any = AutoModelForSequenceClassification.from_config(loaded.config)
    setattr(classifier, classifier.base_model_prefix, getattr(loaded, loaded.base_model_prefix))
    classifier.score = torch.nn.Linear(loaded.config.hidden_size, 1, bias=False, dtype=loaded.dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(classifier.score.weight, std=loaded.config.initializer_range)
    for name in ("is_quantized", "quantization_method", "hf_quantizer", "is_loaded_in_4bit", "max_seq_length"):
        if hasattr(loaded, name):
            setattr(classifier, name, getattr(loaded, name))
    classifier.prepare_inputs_for_generation = loaded.prepare_inputs_for_generation
    return classifier


def lora_of_classifier(options: dict[str, Any]) -> dict[str, Any]:
    """get_peft_model's arguments for a classifier: on the CPU its head has to be named, Unsloth's GPU path knows it."""
    if not uses_cpu_backend():
        return options
    return {**options, "modules_to_save": [*(options.get("modules_to_save") or ()), "score"]}


def mark_as_classifier(peft_model: Any) -> None:
    """In the adapter's own config, so that PEFT loads it onto a classifier again."""
    peft_model.peft_config["default"].task_type = "SEQ_CLS"


def pack_on_cpu(trainer: Any, max_length: int, strategy: str) -> None:
    """Packing where Unsloth's CPU backend switches it off (unsloth_zoo/cpu/trainer.py); batches as `lay_end_to_end`.

    Goes when Unsloth's CPU backend packs.
    """
    from trl.data_utils import pack_dataset

    trainer.train_dataset = pack_dataset(trainer.train_dataset, max_length, strategy)
    lay_end_to_end(trainer)


def lay_end_to_end(trainer: Any) -> None:
    """Feed a batch's documents as one row without padding, as Unsloth does on a GPU, and keep their attention apart.

    Unsloth's CPU backend fears that SDPA attends across them. transformers 5.17 builds the block mask from position ids
    that restart when no attention mask and no cache is passed; tests/trainers/test_packing.py proves it on logits.
    Goes when Unsloth's CPU backend feeds batches so.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from fastft.document_attention import attend_by_document

    trainer.data_collator = DataCollatorForLanguageModeling(
        pad_token_id=trainer.processing_class.pad_token_id, padding_free=True
    )
    # Trainer drops the columns that forward() doesn't know; the collator needs seq_lengths.
    trainer.args.remove_unused_columns = False
    attend_by_document(trainer.model)


def fuse_lora_on_cpu(model: Any) -> None:
    """Give Unsloth's CPU backend what its GPU path has: LoRA layers that are one operation. See fused_lora.py."""
    if uses_cpu_backend():
        from fastft.fused_lora import fuse_lora

        fuse_lora(model)


def order_by_epoch(sampler: Any) -> Any:
    """Let TRL's RepeatSampler say, as transformers asks it to, in which order an epoch sees the prompts.

    It draws an order an epoch from a generator of its own, which no checkpoint keeps: a run resumed in its second epoch
    would see the first one's order again. Goes when trl.trainer.utils.RepeatSampler has a set_epoch.
    """
    import torch

    def set_epoch(epoch: int) -> None:
        sampler.generator.manual_seed(sampler.seed)
        for _ in range(epoch):
            torch.randperm(sampler.num_samples, generator=sampler.generator)

    if sampler is not None and sampler.shuffle:
        sampler.set_epoch = set_epoch
    return sampler


def uses_cpu_backend() -> bool:
    import unsloth

    return getattr(unsloth, "DEVICE_TYPE", "cuda") == "cpu"
