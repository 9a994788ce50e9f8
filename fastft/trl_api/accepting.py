"""What all the trainers accept beside what TRL's do: models by name through Unsloth, rows of any layout."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fastft import backend
from fastft.files import at_home
from fastft.model_files import TINY, resolve_model
from fastft.trainers import find_method
from fastft.trainers.pairs import guard_pairs
from fastft.trl_api.loading import load_for
from fastft.trl_api.rows import Wanted, is_ours, prepare_rows, require_answers

if TYPE_CHECKING:
    from datasets import Dataset

    from fastft.data.prepare import PreparedData


class Accepting:
    """The mixin of all trainers: models by name through Unsloth, and conversations prepared as a recipe's are.

    Rows that are tokenised, streams, images, and TRL's plain texts go to TRL as they are.
    """

    METHOD: ClassVar[str]
    CONFIG: ClassVar[type[Any]]
    LOADS_MORE: ClassVar = False  # a reference or reward models, beside the model that is trained

    def __init_subclass__(cls) -> None:
        """What `help` shows, and arguments by place mean, is what TRL's own trainer declares."""
        made = (inspect.signature(base.__init__) for base in cls.__mro__ if "__init__" in vars(base))
        declared = next((one for one in made if "train_dataset" in one.parameters), None)
        if declared is not None:
            cls.__signature__ = declared.replace(parameters=list(declared.parameters.values())[1:])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = _by_name(type(self), args, kwargs)
        given["args"] = self._config(given.get("args"), given.get("model"))
        self._take_older_names(given)
        self._loaded = isinstance(given.get("model"), str)
        self._supervised: int | None = None  # tokens that our labels have learned, where the rows are ours
        if self._loaded:
            self._load(given)
        self._prepare(given)
        with self._for_trl(given["args"]):
            super().__init__(**given)
        self._settle()

    def _config(self, args: Any, model: Any) -> Any:
        """The trainer's own config, with TRL's default folder where none is given."""
        if args is None:
            name = model if isinstance(model, str) else str(getattr(model.config, "_name_or_path", ""))
            short = type(self).__name__.removesuffix("Trainer")
            return self.CONFIG(output_dir=f"{Path(name).name or 'model'}-{short}")
        known = [base for base in self.CONFIG.__mro__ if base.__name__.endswith(self.CONFIG.__name__)]
        from transformers import TrainingArguments

        if isinstance(args, TrainingArguments) and not isinstance(args, tuple(known)):
            return self.CONFIG(**{**args.to_dict(), "hub_token": args.hub_token})
        return args

    def _take_older_names(self, given: dict[str, Any]) -> None:
        """`tokenizer`, as notebooks still have it, and reward models by their names here."""
        if "tokenizer" in given:
            given.setdefault("processing_class", given.pop("tokenizer"))
        if "reward_funcs" in given:
            funcs = given["reward_funcs"]
            several = funcs if isinstance(funcs, list) else [funcs]
            named = [_reward(one) if isinstance(one, str) else one for one in several]
            given["reward_funcs"] = named if isinstance(funcs, list) else named[0]

    def _load(self, given: dict[str, Any]) -> None:
        loaded, tokenizer, rest = load_for(
            given["model"], given["args"], given.get("peft_config"), given.pop("quantization_config", None),
            classifies=find_method(self.METHOD).classifies,
        )  # fmt: skip
        given["model"], given["peft_config"] = loaded, rest
        if given.get("processing_class") is None:
            given["processing_class"] = tokenizer

    def _prepare(self, given: dict[str, Any]) -> None:
        """Replace the data sets in `given` by what the trainer is fed with."""
        args, model = given["args"], given.get("model")
        own = (given.get("formatting_func"), given.get("data_collator"))
        self._custom = any(one is not None for one in own) or _clones_template(args)
        wanted = self._wanted(args)
        sets = [given.get("train_dataset"), *_each(given.get("eval_dataset"))]
        if self._custom or not any(is_ours(one, wanted) for one in sets):
            return
        if given.get("processing_class") is None:  # as TRL finds it
            from transformers import AutoProcessor

            name = getattr(getattr(model, "config", None), "_name_or_path", None) or model
            given["processing_class"] = AutoProcessor.from_pretrained(name, trust_remote_code=args.trust_remote_code)
        if not _is_tokenizer(given["processing_class"]):
            return
        _take_template(given["processing_class"], args)
        for name in ("train_dataset", "eval_dataset"):
            given[name] = self._fed(given.get(name), name, given["processing_class"], args)

    def _wanted(self, args: Any) -> Wanted:
        return Wanted(
            kind=find_method(self.METHOD).kind,
            max_length=getattr(args, "max_length", None),
            truncation=getattr(args, "truncation_mode", None) or "keep_start",
        )

    def _fed(self, dataset: Any, name: str, tokenizer: Any, args: Any) -> Any:
        if isinstance(dataset, Mapping):
            return {key: self._fed(part, f"{name}[{key!r}]", tokenizer, args) for key, part in dataset.items()}
        wanted = self._wanted(args)
        if not is_ours(dataset, wanted) or not _is_tokenizer(tokenizer):
            require_answers(dataset, wanted, name)
            return dataset
        shaped = self._shaped(dataset)
        called = name if shaped is dataset else f"{name} (unpaired)"  # its rows are others, and twice as many
        prepared = prepare_rows(shaped, called, tokenizer, wanted, args.seed)
        if name == "train_dataset":
            self._supervised = prepared.audit.train.supervised
        return self._rows_of(prepared)

    def _shaped(self, dataset: Dataset) -> Dataset:
        return dataset

    def _rows_of(self, prepared: PreparedData) -> Dataset:
        raise NotImplementedError

    @contextmanager
    def _for_trl(self, args: Any) -> Iterator[None]:
        """While TRL makes the trainer: it isn't told how to load a model that was loaded so.

        Trainers with a reference or reward models load those by the same arguments, and keep them.
        """
        kept = args.model_init_kwargs
        if self._loaded and not self.LOADS_MORE:
            args.model_init_kwargs = None
        try:
            with _unsaid(f"trl.trainer.{self.METHOD}_trainer", "You passed `model_init_kwargs`", self._loaded):
                yield
        finally:
            args.model_init_kwargs = kept

    def _settle(self) -> None:
        """Once it is made: adapters learn in float32, and a fresh LoRA's reference is the model without it."""
        trainer: Any = self
        if hasattr(trainer.model, "peft_config"):
            backend.keep_adapter_in_fp32(trainer.model)
            backend.reference_is_the_base(trainer.model)
        if self._supervised is not None:
            self._guard(trainer.train_dataset, self._supervised)

    def _guard(self, dataset: Any, supervised: int) -> None:
        guard_pairs(dataset, supervised)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's, on rows of any layout that the trainer takes."""
        trainer: Any = self
        if eval_dataset is not None and not isinstance(eval_dataset, str) and not self._custom:
            eval_dataset = self._fed(eval_dataset, "eval_dataset", trainer.processing_class, trainer.args)
        return super().evaluate(eval_dataset, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


def _by_name(trainer: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by their names in TRL's trainer, also those given by their place."""
    names = [name for name, one in inspect.signature(trainer).parameters.items() if one.kind is not one.VAR_KEYWORD]
    if len(args) > len(names):
        raise TypeError(f"{trainer.__name__} takes at most {len(names)} arguments by place, {len(args)} were given")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise TypeError(f"{trainer.__name__} got several values for {sorted(twice)[0]}")
    return given | kwargs


def _reward(name: str) -> Any:
    """A run of method reward as a function that scores; the packaged model as the folder transformers loads."""
    if (at_home(name) / "recipe.yaml").is_file():
        from fastft.recipe.rewards_section import RewardSection
        from fastft.rewards.reward import load_rewards

        return load_rewards((RewardSection.model_validate({"run": name}),))[0]
    if name == TINY or name.startswith("runs/"):  # the latter is nobody's on the Hub: a run that isn't there
        return str(resolve_model(name, weights=True))
    return name


def _each(datasets: Any) -> list[Any]:
    return list(datasets.values()) if isinstance(datasets, Mapping) else [datasets]


def _is_tokenizer(processing_class: Any) -> bool:
    """Processors of images and texts are TRL's to use."""
    from transformers import PreTrainedTokenizerBase

    return isinstance(processing_class, PreTrainedTokenizerBase)


def _clones_template(args: Any) -> bool:
    """Whether TRL is to take another model's template with its tokens, which changes tokenizer and model."""
    path = getattr(args, "chat_template_path", None)
    return path is not None and not Path(path).is_file()


def _take_template(tokenizer: Any, args: Any) -> None:
    """The template and end of text that `args` names, which TRL would set only after the rows are prepared."""
    path, end = getattr(args, "chat_template_path", None), getattr(args, "eos_token", None)
    if path is not None and Path(path).is_file():
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    if end is not None and end in tokenizer.get_vocab():
        tokenizer.eos_token = end


@contextmanager
def _unsaid(logger: str, sentence: str, wanted: bool) -> Iterator[None]:
    """Without a warning that isn't true here."""

    def other(record: logging.LogRecord) -> bool:
        return not (wanted and sentence in str(record.msg))

    logging.getLogger(logger).addFilter(other)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(other)
