"""codebooks-…: the vectors of a fitted tokenizer's codes, an array a level, to go on training with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.errors import UsageError
from sidbench.format import Export, Format
from sidbench.tokenizer import Tokenizer


class CodebooksNPZ(Format):
    """codebook_0, codebook_1… (codes, dimensions) as .npz, the names that MiniOneRec's scripts read."""

    name = "codebooks-npz"
    system = "MiniOneRec"
    file = "codebooks.npz"
    needs_tokenizer = True

    def write(self, export: Export, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **codebooks_of(export.tokenizer))  # type: ignore[arg-type]


class CodebooksSafetensors(Format):
    """codebook_0, codebook_1… (codes, dimensions) as .safetensors."""

    name = "codebooks-safetensors"
    system = "any"
    file = "codebooks.safetensors"
    needs_tokenizer = True

    def write(self, export: Export, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file(codebooks_of(export.tokenizer), path)


def codebooks_of(tokenizer: Tokenizer | None) -> dict[str, NDArray[np.float32]]:
    """The codebooks of a fitted tokenizer by name; who has none says so."""
    if tokenizer is None:
        raise UsageError("codebooks are of a fitted tokenizer: give a run, or the folder of one")
    from sidbench.kit import network
    from sidbench.kit.autoencoder import Autoencoding

    held: Any = tokenizer.state().get("codebooks_")
    if isinstance(tokenizer, Autoencoding):
        model = tokenizer.build(tokenizer.columns_)
        network.put_back(model, tokenizer.weights_)
        held = model.quantizer.books()
    rows = [np.ascontiguousarray(v, dtype=np.float32) for v in held or ()]
    if not rows or any(v.ndim != 2 for v in rows):
        raise UsageError(
            f"{tokenizer.name} has no codebooks: its codes are no vectors of a list a level. Those of "
            "rq-kmeans, rq-kmeans-balanced, rvq-ema, opq and rq-vae have them"
        )
    return {f"codebook_{level}": v for level, v in enumerate(rows)}
