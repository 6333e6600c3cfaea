"""The process's own state, which a plugin leaves as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

GLOBALS = (
    "Python's random state",
    "NumPy's global random state",
    "torch's global random state",
    "torch's thread count",
    "torch's gradient mode",
    "torch's default dtype",
    "torch's matmul precision",
)


def global_state() -> tuple[Any, ...]:
    import torch

    return (
        random.getstate(),
        [np.asarray(part).tobytes() for part in np.random.get_state()],  # noqa: NPY002 - it is what is looked at
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other global random states for a while, put back afterwards."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
