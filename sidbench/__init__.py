"""sidbench: benchmark Semantic ID tokenizers for generative recommendation."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_LAZY = {"load": "sidbench.handle", "ensure": "sidbench.catalogue.ensure"}


def __getattr__(name: str) -> Any:
    """`sidbench.load` and `sidbench.ensure` are there from the start, and load what they need when used."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sidbench' has no attribute {name!r}")
