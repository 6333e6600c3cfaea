"""The shared retrieval decoder: model, trie, beam search, training."""

from sidbench.decoder.decoder import Decoder

__all__ = ["Decoder"]
