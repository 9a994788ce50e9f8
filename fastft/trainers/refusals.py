"""What TRL says when it refuses arguments, as an error for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastft.errors import TrainingError


@contextmanager
def refusals() -> Iterator[None]:
    """Around the making of a TRL config and trainer. Raises TrainingError with what TRL said."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise TrainingError(
            f"TRL refuses the training arguments: {error}", hint="See `training:` in the recipe."
        ) from error
