"""What GRPO and RLOO share: prompts as our own token ids, rewards from the recipe, every answer written down.

TRL's trainers write the answers, compute the rewards and the loss. They get of us the prompts' ids (TRL would render
them again, without the tools a row may have), the rows' own columns for the rewards, and where an answer ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastft import backend
from fastft.data.formats.prompt_only import further
from fastft.data.tokenizer import ChatTokenizer
from fastft.out_of_memory import AnswersError, ran_out_of_memory
from fastft.rewards.prompts import columns_of
from fastft.rewards.reward import load_rewards
from fastft.trainers.completions import CompletionLog
from fastft.trainers.groups import prompts_at_a_time
from fastft.trainers.method import Default
from fastft.trainers.refusals import refusals

if TYPE_CHECKING:
    from datasets import Dataset

    from fastft.data.conversation import Conversation, Example
    from fastft.data.prepare import PreparedData
    from fastft.trainers.method import Job

_LOGGED = "every answer is in the run's completions.jsonl"
_RENDERED = "the prompts are rendered before training; set data.chat_template"
_REFERENCE = "the reference is the model without its adapter, which has nothing to be synchronised"

MEASURES: Mapping[str, str] = {
    "reward": "mean reward",
    "completions/mean_length": "answer, tokens on average",
    "completions/clipped_ratio": "answers cut off",
}
DISPLAYED = ("reward", "kl", "completions/mean_length")
OWNED: Mapping[str, str] = {
    "reward_weights": "set weight in rewards",
    "chat_template_kwargs": _RENDERED,
    "log_completions": _LOGGED,
    "log_multimodal": _LOGGED,
    "num_completions_to_print": _LOGGED,
    "log_unique_prompts": _LOGGED,
    "log_completions_hub_repo": _LOGGED,
    "sync_ref_model": _REFERENCE,
    "max_tool_calling_iterations": "the model calls no tools while it trains",
    "auto_find_batch_size": "the answers to a prompt have to stay in one batch; set per_device_train_batch_size",
    "ds3_gather_for_generation": "fastft trains on one GPU",
}
DEFAULTS = (
    Default("num_train_epochs", 1, "each prompt is answered several times"),
    Default("max_completion_length", 256, "longer answers cost time, and are cut off there"),
    Default("temperature", 1.0, "TRL's: answers as varied as the model is"),
    Default("num_generations_eval", 1, "one answer to each held-out prompt"),
    Default("per_device_eval_batch_size", 16, "held-out answers at a time"),
)


def build_online(job: Job, trainer_class: type[Any], config_class: type[Any]) -> Any:
    """A trainer over the job's prompts. Its reference, where beta is above 0, is the model as it is now.

    Raises TrainingError if TRL refuses the arguments, or a reward function's file can't be loaded.
    """
    data = job.data
    rewards = load_rewards(job.rewards)
    end_generation(job.model, job.tokenizer)
    with refusals():
        trainer = _with_our_prompts(trainer_class)(
            model=job.model,
            args=config_class(**{**job.config(), "reward_weights": [reward.weight for reward in job.rewards]}),
            reward_funcs=rewards,
            train_dataset=prompt_dataset(data.train),
            eval_dataset=prompt_dataset(data.evaluation, held_out=True) if len(data.evaluation) else None,
            callbacks=list(job.callbacks),
            processing_class=job.tokenizer,
        )
    trainer.prompts = _Prompts(data.train_conversations, data.evaluation_conversations)
    trainer.completions = CompletionLog(completions_path(job.checkpoints), trainer.reward_func_names)
    backend.keep_adapter_in_fp32(trainer.model)
    backend.reference_is_the_base(trainer.model)
    return trainer


def warnings(data: PreparedData, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the prompts an epoch leaves out, where training goes by epochs."""
    at_a_time = prompts_at_a_time(arguments)
    rest = len(data.train) % at_a_time
    if not rest or int(arguments.get("max_steps", -1)) > 0:
        return ()
    left = f"{rest} of {len(data.train):,} prompts are left out of each epoch, by chance which"
    return (f"{left}: {at_a_time} are answered at a time, and no fewer",)


def completions_path(checkpoints: Path) -> Path:
    """The file beside a run's checkpoints that holds what the model answered."""
    return checkpoints.parent / "completions.jsonl"


def prompt_dataset(examples: Sequence[Example], *, held_out: bool = False) -> Dataset:
    """The ids of each prompt, and which row it is. What the row says stays where it is: Arrow would change it."""
    from datasets import Dataset

    ids = [example.input_ids for example in examples]
    return Dataset.from_dict({"prompt_ids": ids, "row": range(len(ids)), "held_out": [held_out] * len(ids)})


class _Prompts:
    """Messages and columns of the rows of a prompt data set."""

    def __init__(self, train: Sequence[Conversation], held_out: Sequence[Conversation]) -> None:
        self._sides = (train, held_out)
        self._columns = columns_of((*train, *held_out))

    def messages(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._at(row).as_dicts()

    def columns(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """All columns that any row has; None where this one has none."""
        found = further(self._at(row))
        return {name: found.get(name) for name in self._columns}

    def _at(self, row: Mapping[str, Any]) -> Conversation:
        return self._sides[row["held_out"]][row["row"]]


def _with_our_prompts(trainer_class: type[Any]) -> type[Any]:
    """The trainer, fed from a `prompt_dataset`: its `prompts` and `completions` are set once it is made."""

    class Online(trainer_class):
        prompts: _Prompts
        completions: CompletionLog

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return backend.order_by_epoch(super()._get_train_sampler(dataset))

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
            self._fed = [row["prompt_ids"] for row in inputs]
            return super()._generate_and_score_completions(
                [{"prompt": self.prompts.messages(row), "row": row} for row in inputs]
            )

        def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
            try:
                return super()._generate_single_turn(*args, **options)
            except (RuntimeError, MemoryError) as error:
                if self.model.training and ran_out_of_memory(error):
                    raise AnswersError("memory ran out while answers were written") from error
                raise

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            assert len(prompts) == len(self._fed)
            return self._fed, None, {}

        def _calculate_rewards(self, inputs: list[Any], prompts: Any, completions: Any, completion_ids: Any) -> Any:
            rows = [{"prompt": one["prompt"], **self.prompts.columns(one["row"])} for one in inputs]
            rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids)
            if self.model.training:
                self.completions.add(self.state.global_step, prompts, completions, rewards, self.reward_weights)
            return rewards

    Online.__name__ = Online.__qualname__ = trainer_class.__name__
    return Online


def end_generation(model: Any, tokenizer: Any) -> None:
    """Let answers end at the template's end of turn, whatever the model's own files call an end.

    TRL takes the ends from the model's generation config, to stop and to tell finished answers from cut ones.
    """
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {name: getattr(tokenizer, name) for name in names}
    chat = ChatTokenizer(Path(), tokenizer.backend_tokenizer, specials, tokenizer.chat_template)
    model.generation_config.eos_token_id = sorted({chat.end_of_turn_id, tokenizer.eos_token_id} - {None})
