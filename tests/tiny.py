"""Tiny: the words of a run that takes a fraction of a second, plugins of a few lines, what a run left."""

from __future__ import annotations

from pathlib import Path

from sidbench.record import RunRecord, Store

#: The smallest world, and SIDs of a few codes.
WORLD = ["--dataset", "synthetic:tiny", "--threads", "1"]
CODES = ["--set", "all.levels=2", "--set", "all.codebook_size=8"]
PLUGIN = """
import numpy as np
from sidbench.tokenizer import Tokenizer


class {cls}(Tokenizer):
    "A tokenizer of a test."

    name = "{name}"

    def fit(self, x):
        {fit}
        self.done_ = 1
        return self

    def encode(self, x):
        return {encode}
"""
ZEROS = "np.zeros((len(x), self.levels), dtype=np.int64)"


def decoder(**settings: int | str) -> list[str]:
    """A decoder that learns next to nothing, quickly; with other settings."""
    own = {"width": 8, "heads": 1, "head_width": 8, "feed_forward": 8, "valid_users": 20, "beam": 5}
    return [word for k, v in {**own, **settings}.items() for word in ("--set", f"decoder.{k}={v}")]


#: A row in a fraction of a second.
TINY = [
    *WORLD,
    *CODES,
    *decoder(
        encoder_layers=1, decoder_layers=1, history=4, steps=4, eval_every=2, batch=32, precision="fp32"
    ),
]


def plugin(name: str, fit: str = "pass", encode: str = ZEROS) -> str:
    """A tokenizer as a file of its own."""
    return PLUGIN.format(cls=name.title().replace("-", ""), name=name, fit=fit, encode=encode)


def loaded(folder: Path) -> dict[str, RunRecord]:
    """Records by label, resolver and seed."""
    out = {}
    for _, record in Store(folder).all():
        assert isinstance(record, RunRecord)
        resolver = record.key["resolver"]
        out[f"{record.label} {resolver['name'] if resolver else '-'} {record.key['seed']}"] = record
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
