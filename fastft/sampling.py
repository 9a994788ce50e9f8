"""How the next token is chosen: the same options, with the same meaning, for transformers and for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastft.errors import RecipeError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of sampling, spelled and applied as transformers' `generate` does it: penalty, temperature, top_k, top_p,
    min_p, in this order.

    Temperature 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 leave everything as it is. With
    a `seed` the same conversation gets the same answer again, from the same backend. Raises RecipeError for values out
    of range, and for a choice narrowed where nothing is drawn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 is none"),
            ("seed", self.seed is None or 0 <= self.seed < _NO_SEED, f"from 0 to {_NO_SEED - 1}"),
        ):
            if not fits:
                raise RecipeError(f"{name} is {getattr(self, name)}; expected {range_}")
        if self.temperature == 0 and (self.top_p, self.top_k, self.min_p) != (1.0, 0, 0.0):
            raise RecipeError(
                "top_p, top_k and min_p narrow what is drawn from, and at temperature 0 nothing is drawn",
                hint="Give a temperature too, as 0.7, or leave them out.",
            )

    def for_llama_cpp(self, n_ctx: int) -> dict[str, Any]:
        """The fields of a request to llama.cpp that mean the same, with a context of `n_ctx` tokens."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repetition_penalty,
            "repeat_last_n": n_ctx,  # all of it, as in transformers; llama.cpp's own default is the last 64
            "seed": _NO_SEED if self.seed is None else self.seed,
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        }


_NO_SEED = (1 << 32) - 1  # for llama.cpp this number means: another seed each time
GREEDY = Sampling()


class Chooser:
    """Picks one answer's tokens, with transformers' own processors of logits."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        import torch

        self._sampling = sampling
        self._processors = _processors(sampling)
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor, ids: list[int]) -> int:
        """The token after `ids`, of `logits` in float32 [vocabulary]."""
        import torch

        scores = logits[None]
        if self._processors:
            scores = self._processors(torch.tensor([ids], device=logits.device), scores)  # pyright: ignore[reportArgumentType]
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial(scores[0].softmax(-1), 1, generator=self._generator))


def _processors(sampling: Sampling) -> Any:
    from transformers.generation import logits_process as of

    found = of.LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(of.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        found.append(of.TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k > 0:
        found.append(of.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(of.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        found.append(of.MinPLogitsWarper(sampling.min_p))
    return found
