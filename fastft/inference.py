"""A model folder, or an adapter on its base, in plain transformers: log-probabilities and answers, without unsloth."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastft.model_loading import DtypeName, load_weights, placement, require_readable, stop_and_pad, with_adapter
from fastft.sampling import GREEDY, Chooser, Sampling

if TYPE_CHECKING:
    import torch

StopReason = Literal["stop", "length"]
_PROMPTS_A_BATCH = 64
_SMALL_MODEL = 16_000_000  # parameters
_LOGITS_BYTES = 1 << 28  # of one batch's logits in float32


@dataclass(frozen=True, slots=True)
class Generation:
    """A greedy answer: its ids without the stop token, and whether a stop token or the limit ended it."""

    ids: list[int]
    stop_reason: StopReason


class TextModel:
    """A causal language model in evaluation mode, with the stop tokens that its own generation config names."""

    def __init__(self, model: Any, stop_ids: Sequence[int], pad_id: int) -> None:
        self.model = model
        self.stop_ids = list(stop_ids)
        self.pad_id = pad_id

    @classmethod
    def load(cls, folder: Path, adapter: Path | None = None, *, dtype: DtypeName | None = None) -> TextModel:
        """Load `folder` (16- or 32-bit weights), put the LoRA `adapter` on it if given, unmerged.

        Computes in float32 unless `dtype` says otherwise or the memory is too small for it (then bfloat16); on the
        GPU if there is one with room. Raises ModelError: files missing, cut short, of the wrong shape, or incomplete;
        what can be told without torch is told before that is imported.
        """
        require_readable(folder, adapter)
        import torch

        dtype, device = placement(folder, dtype)
        model = load_weights(folder, getattr(torch, dtype))
        if adapter is not None:
            model = with_adapter(model, adapter)
        stops, pad = stop_and_pad(adapter if adapter is not None else folder, folder)
        return cls(model.to(device).eval(), stops, pad)

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def vocabulary(self) -> int:
        """Number of logits a position, which may be more than the tokenizer has tokens."""
        return self.model.get_output_embeddings().weight.shape[0]

    def close(self) -> None:
        """Give the memory back; the model can't be used after."""
        import torch

        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of the next token after each of `ids`: float32 [len(ids), vocabulary], on the CPU."""
        return next(self.logprobs_of([ids]))

    def logprobs_of(self, sequences: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """As `logprobs`, for each of `sequences` in turn, several of them at a time as memory allows."""
        import torch

        room = max(_LOGITS_BYTES // (4 * self.vocabulary), 1)  # positions at a time
        for batch in _batches(sequences, room):
            width = max(map(len, batch))
            # Padded on the right and unmasked: a causal model's real tokens never see what follows them.
            rows = [[*ids, *[self.pad_id] * (width - len(ids))] for ids in batch]
            with torch.inference_mode(), self.threads():
                inputs = torch.tensor(rows, device=self.model.device)
                logits = self.model(input_ids=inputs, use_cache=False).logits
                found = logits.float().log_softmax(-1).cpu()
            yield from (found[i, : len(ids)] for i, ids in enumerate(batch))

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int] | None = None
    ) -> list[Generation]:
        """Greedy answers to `prompts` (token ids), in their order; `stop_ids` replace the model's own."""
        stops = list(stop_ids) if stop_ids is not None else self.stop_ids
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), _PROMPTS_A_BATCH):
            chosen = order[start : start + _PROMPTS_A_BATCH]
            rows = self._generate([prompts[i] for i in chosen], max_new_tokens, stops)
            answers |= {i: _cut(row, stops) for i, row in zip(chosen, rows, strict=True)}
        return [answers[i] for i in range(len(prompts))]

    def _generate(self, prompts: list[Sequence[int]], limit: int, stops: list[int]) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        settings = GenerationConfig(
            max_new_tokens=limit, do_sample=False, eos_token_id=stops or None, pad_token_id=self.pad_id
        )
        width = max(map(len, prompts))
        rows = [[self.pad_id] * (width - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        with torch.inference_mode(), self.threads():
            out = self.model.generate(
                input_ids=torch.tensor(rows, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                generation_config=settings,
            )
        return out[:, width:].tolist()

    def stream(
        self, ids: Sequence[int], max_new_tokens: int, sampling: Sampling = GREEDY, *, without_adapter: bool = False
    ) -> Iterator[int]:
        """The tokens of an answer as they are made, up to a stop token; `without_adapter` it is the base's answer.

        Unlike `generate` with a streamer this needs no thread, and ends at once where the iterator is closed.
        """
        import torch

        chooser = Chooser(sampling, self.model.device)
        so_far, inputs, cache = list(ids), list(ids), None
        for _ in range(max_new_tokens):
            # The adapter is on again before the token is given away: another answer may be under way in between.
            with torch.inference_mode(), self.threads(), self._without(without_adapter):
                rows = torch.tensor([inputs], device=self.model.device)
                out = self.model(input_ids=rows, past_key_values=cache, use_cache=True)
                token = chooser.choose(out.logits[0, -1].float(), so_far)
            if token in self.stop_ids:
                return
            yield token
            so_far.append(token)
            inputs, cache = [token], out.past_key_values

    def _without(self, adapter: bool) -> contextlib.AbstractContextManager[Any]:
        return self.model.disable_adapter() if adapter else contextlib.nullcontext()

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """One thread for a small model: its matrices are done before threads have met, and on a busy machine, where
        one of them may not be running, the others wait tens of times longer than the work takes."""
        import torch

        before = torch.get_num_threads()
        if self._small:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @functools.cached_property
    def _small(self) -> bool:
        return sum(parameter.numel() for parameter in self.model.parameters()) < _SMALL_MODEL

    def merge(self, dtype: DtypeName) -> None:
        """Fold the adapter, if there is one, into the weights with PEFT, and round them as if saved in `dtype`."""
        import torch
        from peft import PeftModel

        if isinstance(self.model, PeftModel):
            self.model = self.model.merge_and_unload()  # pyright: ignore[reportCallIssue]
        rounded = getattr(torch, dtype)
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(rounded).to(parameter.dtype)

    def merged_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name as in the base's files, value in float32) of each weight, the adapter merged in. The model stays.

        Each adapted module is merged by PEFT itself, in a copy: scaling, rank-stabilised scaling, DoRA and layout are
        its business. Holds one module at a time.
        """
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        root: Any = self.model.base_model.model if isinstance(self.model, PeftModel) else self.model
        replaced: list[str] = []
        for name, module in root.named_modules():
            if isinstance(module, LoraLayer):
                replaced.append(name)
                yield from _named(name, _merged_copy(module))
            elif isinstance(module, ModulesToSaveWrapper):
                replaced.append(name)
                yield from _named(name, module.modules_to_save[module.active_adapters[0]])
        inside = tuple(f"{name}." for name in replaced)
        for name, parameter in root.named_parameters():
            if not name.startswith(inside):
                yield name, parameter.detach().float().cpu()


def _merged_copy(module: Any) -> Any:
    module = copy.deepcopy(module).float()
    module.merge()
    return module.get_base_layer()


def _named(prefix: str, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in module.named_parameters():
        yield f"{prefix}.{name}", parameter.detach().float().cpu()


def _batches(sequences: Sequence[Sequence[int]], room: int) -> Iterator[list[Sequence[int]]]:
    """Consecutive sequences, each batch of at most `room` positions once padded (a longer sequence goes alone)."""
    batch: list[Sequence[int]] = []
    for ids in sequences:
        if batch and (len(batch) + 1) * max(len(ids), *map(len, batch)) > room:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _cut(row: list[int], stops: Sequence[int]) -> Generation:
    end = next((i for i, token in enumerate(row) if token in stops), None)
    return Generation(row, "length") if end is None else Generation(row[:end], "stop")
