"""Tokens a second and peak memory of fastft against the usual ways to do the same job, in one run.

    python bench/gpu/sft_throughput.py --tokenizer FOLDER [--size 1b|8b|smoke] [--seconds 25] [--out FILE]

Arms, each in a process of its own (Unsloth patches globally), in the order A B C C B A:
  A  transformers + TRL + PEFT + bitsandbytes as their documentation shows: padded batches of 8, checkpointing on
  B  the usual Unsloth notebook: batch 2, accumulation 4, r 16, checkpointing "unsloth", adamw_8bit
  C  fastft with packing, as recipes/qlora_chat.yaml
Same random weights of a real architecture (saved once), same documents with log-normal lengths, NF4, r 16.
Prints its table last. Without an accelerator only `--size smoke` makes sense: it shows that the script runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
KV_HEADS = {"smoke": 1, "1b": 8, "8b": 8}
MAX_LENGTH = 2048
WARM_UP_STEPS = 5


def make_model(folder: Path, size: str, tokenizer_folder: Path) -> None:
    """Random weights (speed and memory don't depend on their values), layer by layer on the device that is there."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        num_key_value_heads=KV_HEADS[size],
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=size != "8b",
        eos_token_id=tokenizer.eos_token_id,
        **SIZES[size],
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)


def make_documents(path: Path, vocabulary: int, count: int) -> None:
    """Markov chains over 2,000 token ids, lengths log-normal (median 256 tokens), half of each supervised."""
    import numpy

    random = numpy.random.default_rng(0)
    following = random.integers(1000, min(vocabulary, 100_000) if vocabulary > 2000 else vocabulary, (2000, 4))
    with path.open("w") as file:
        for length in numpy.clip(random.lognormal(5.55, 0.9, count), 16, MAX_LENGTH).astype(int):
            state, ids = int(random.integers(2000)), []
            for choice in random.integers(0, 4, length):
                ids.append(int(following[state, choice]) % vocabulary)
                state = ids[-1] % 2000
            file.write(json.dumps({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]}) + "\n")


def run_arm(arm: str, model: Path, documents: Path, seconds: float) -> dict[str, Any]:
    """Train for `seconds` after the warm-up; returns tokens/s over synchronised steps and peak bytes."""
    arguments: dict[str, Any] = {"max_length": MAX_LENGTH, "learning_rate": 2e-4, "logging_steps": 1, "seed": 3407}
    if arm == "A":
        build, options = _plain, {"per_device_train_batch_size": 8, "gradient_checkpointing": True, "bf16": True}
    elif arm == "B":
        build = _unsloth
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "optim": "adamw_8bit"}
    else:
        build = _unsloth
        options = {"per_device_train_batch_size": 8, "packing": True, "optim": "adamw_8bit"}
    return _measure(build(model, documents, {**arguments, **options, "max_steps": 100_000}), seconds)


def _plain(model: Path, documents: Path, arguments: dict[str, Any]) -> Any:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=quantization, device_map={"": 0})
    config = SFTConfig(output_dir=tempfile.mkdtemp(), report_to="none", save_strategy="no", **arguments)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = load_dataset("json", data_files=str(documents), split="train")
    tokenizer = AutoTokenizer.from_pretrained(model)
    return SFTTrainer(model=loaded, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora)


def _unsloth(model: Path, documents: Path, arguments: dict[str, Any]) -> Any:
    from fastft.backend import import_unsloth

    fast_language_model = import_unsloth()
    from fastft.data.conversation import Example
    from fastft.data.store import Examples
    from fastft.trainers.method import Job
    from fastft.trainers.sft import build_trainer

    loaded, tokenizer = fast_language_model.from_pretrained(str(model), max_seq_length=MAX_LENGTH, load_in_4bit=True)
    loaded = fast_language_model.get_peft_model(loaded, r=16, lora_alpha=16, use_gradient_checkpointing="unsloth")
    rows = [Example(**json.loads(line), place=str(n)) for n, line in enumerate(documents.open(), start=1)]
    audit = SimpleNamespace(train=SimpleNamespace(supervised=sum(row.supervised for row in rows)))
    nothing = Examples.of([])
    data: Any = SimpleNamespace(train=Examples.of(rows), evaluation=nothing, evaluation_conversations=[], audit=audit)
    arguments = {**arguments, "save_strategy": "no"}
    return build_trainer(Job(loaded, tokenizer, data, arguments, Path(tempfile.mkdtemp())))


def _measure(trainer: Any, seconds: float) -> dict[str, Any]:
    import torch
    from transformers import TrainerCallback

    cuda = torch.cuda.is_available()
    fed = {"real": 0, "supervised": 0}
    ends: list[tuple[float, int, int]] = []

    class Stopwatch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if cuda:
                torch.cuda.synchronize()
            ends.append((time.perf_counter(), fed["real"], fed["supervised"]))
            if len(ends) > WARM_UP_STEPS and ends[-1][0] - ends[WARM_UP_STEPS - 1][0] > seconds:
                control.should_training_stop = True

    collate = trainer.data_collator

    def counted(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        fed["real"] += sum(len(row["input_ids"]) for row in rows)
        fed["supervised"] += int((batch["labels"] != -100).sum())
        return batch

    trainer.data_collator = counted
    trainer.add_callback(Stopwatch())
    trainer.train()
    (begin, real, supervised), (end, real_end, supervised_end) = ends[WARM_UP_STEPS - 1], ends[-1]
    steps = sorted(b[0] - a[0] for a, b in zip(ends[WARM_UP_STEPS - 1 :], ends[WARM_UP_STEPS:], strict=False))
    return {
        "tokens_per_second": (real_end - real) / (end - begin),
        "supervised_per_second": (supervised_end - supervised) / (end - begin),
        "step_p50": steps[len(steps) // 2],
        "step_p95": steps[int(len(steps) * 0.95)],
        "peak_allocated": torch.cuda.max_memory_allocated() if cuda else 0,
        "peak_reserved": torch.cuda.max_memory_reserved() if cuda else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a real tokenizer")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--order", default="ABCCBA")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        result = run_arm(options.arm, options.work / "model", options.work / "documents.jsonl", options.seconds)
        print("RESULT " + json.dumps(result), flush=True)
        return
    with tempfile.TemporaryDirectory() as work:
        results = _all_arms(options, Path(work))
    _print_table(results)
    if options.out:
        options.out.write_text(json.dumps({"size": options.size, "arms": results}, indent=2))


def _all_arms(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    make_model(work / "model", options.size, options.tokenizer)
    vocabulary = json.loads((work / "model" / "config.json").read_text())["vocab_size"]
    make_documents(work / "documents.jsonl", vocabulary, 200 if options.size == "smoke" else 20_000)
    results = []
    for arm in options.order:
        command = [sys.executable, __file__, "--arm", arm, "--work", str(work), "--seconds", str(options.seconds)]
        done = subprocess.run([*command, "--tokenizer", str(options.tokenizer)], capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not lines:
            print(f"arm {arm} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        results.append({"arm": arm, **json.loads(lines[-1].removeprefix("RESULT "))})
        print(results[-1], flush=True)
    return results


def _print_table(results: list[dict[str, Any]]) -> None:
    baseline = [r["tokens_per_second"] for r in results if r["arm"] == "A"]
    mean_of_a = sum(baseline) / len(baseline) if baseline else float("nan")
    print("\narm  tokens/s  supervised/s  against A  step p50  step p95  peak allocated  peak reserved")
    for r in results:
        print(
            f"{r['arm']:<4} {r['tokens_per_second']:>8,.0f}  {r['supervised_per_second']:>12,.0f}  "
            f"{r['tokens_per_second'] / mean_of_a:>8.2f}x  {r['step_p50']:>7.3f}s  {r['step_p95']:>7.3f}s  "
            f"{r['peak_allocated'] / 2**30:>10.2f} GiB  {r['peak_reserved'] / 2**30:>9.2f} GiB"
        )


if __name__ == "__main__":
    main()
