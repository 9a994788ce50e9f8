"""The random states that trainings draw from: all that transformers' checkpoints keep."""

from __future__ import annotations

import random
from typing import Any


def random_state() -> tuple[Any, ...]:
    """Python's, NumPy's, torch's on the host and on each GPU."""
    import numpy as np
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_state(state: tuple[Any, ...]) -> None:
    """Draw from now on what was drawn after `random_state` gave `state`."""
    import numpy as np
    import torch

    python, numpy, host, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(host)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
