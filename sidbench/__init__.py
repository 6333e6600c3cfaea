"""sidbench: benchmark Semantic ID tokenizers for generative recommendation."""

__version__ = "0.1.0"
