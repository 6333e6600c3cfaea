"""liger: the pickled matrix of LIGER, whose row i is item i + 1."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from sidbench.errors import DataError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import safe
from sidbench.formats.codes import from_matrix


class LIGER(Format):
    """A pickled array (items, levels) of LIGER, from 0; row i is item i + 1. Its own code adds the suffix."""

    name = "liger"
    system = "LIGER"
    file = "ids.pkl"
    lengths_differ = False
    by_row = True
    first_id = 1
    paper = "https://arxiv.org/abs/2411.18814"
    loses = "ids (row i is item i + 1), sizes"

    def read(self, path: Path, how: How) -> Found:
        held = safe.unpickle(path)
        if not isinstance(held, np.ndarray):
            raise DataError(
                f"{path.name} holds {type(held).__name__}; expected a pickled array (items, levels)"
            )
        return from_matrix(held, path.name)

    def write(self, export: Export, path: Path) -> None:
        path.write_bytes(pickle.dumps(export.in_order(self.first_id).astype(np.int64), protocol=4))
