"""sidbench: benchmark Semantic ID tokenizers for generative recommendation."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`sidbench.load` is there from the start and loads what it needs when it is used."""
    if name == "load":
        return import_module("sidbench.handle").load
    raise AttributeError(f"module 'sidbench' has no attribute {name!r}")
