"""grid: the tensor [levels + 1, items] of GRID, and the pickle of rows that it is merged from."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.errors import DataError
from sidbench.format import MOST_LEVELS, Export, Format, Found, How
from sidbench.formats import safe
from sidbench.formats.codes import from_lists, from_matrix


class GRID(Format):
    """merged_predictions_tensor.pt of GRID: int64 [levels + 1, items]; the last row sets items apart."""

    name = "grid"
    system = "GRID"
    file = "merged_predictions_tensor.pt"
    endings = (".pt",)
    rows = "levels"
    ends_in_suffix = True
    lengths_differ = False
    by_row = True
    paper = "https://arxiv.org/abs/2507.22224"
    loses = "ids (column j is item j), sizes (its reader takes the largest code of all rows)"

    def read(self, path: Path, how: How) -> Found:
        codes = read_tensor(path)
        if codes.dtype.kind == "f" and (np.abs(codes) < 2**53).all() and (codes == np.rint(codes)).all():
            codes = codes.astype(np.int64)  # without its step of deduplication GRID keeps codes as floats
        return from_matrix(codes, path.name)

    def write(self, export: Export, path: Path) -> None:
        import torch

        codes = export.in_order().T.astype(np.int64)
        torch.save(torch.from_numpy(np.ascontiguousarray(codes)), path)


def read_tensor(path: Path) -> Any:
    """The one tensor of a `.pt` file, as numbers alone: nothing in the file is run."""
    import pickle

    import torch

    remedy = "save it with torch.save(tensor, path)"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                safe.check_zip(archive, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols: what cannot be read is told below
            held = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as e:
        why = str(e).partition("\n")[0][:200]
        raise DataError(
            f"{path.name} is refused: it holds more than tensors, which may run code ({why}); {remedy}"
        ) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        EOFError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        AssertionError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        why = str(e).partition("\n")[0][:200] or type(e).__name__
        raise DataError(f"{path.name} cannot be read as a tensor ({why}); {remedy}") from None
    if not isinstance(held, torch.Tensor):
        raise DataError(f"{path.name} holds {type(held).__name__}, not one tensor; {remedy}")
    if held.layout != torch.strided or held.numel() * held.element_size() > held.untyped_storage().nbytes():
        raise DataError(f"{path.name}: its tensor of shape {tuple(held.shape)} is not all there; {remedy}")
    try:
        return held.detach().contiguous().numpy()
    except (TypeError, RuntimeError):  # of a type that NumPy has not, or without content
        raise DataError(
            f"{path.name}: its tensor is {held.dtype} on {held.device}; write integers such as torch.int64"
        ) from None


class GRIDPickle(Format):
    """merged_predictions.pkl of GRID: a list of rows with an item's id and its codes."""

    name = "grid-pickle"
    system = "GRID"
    file = "merged_predictions.pkl"
    endings = ("merged_predictions.pkl",)
    paper = "https://arxiv.org/abs/2507.22224"
    loses = "sizes"

    def read(self, path: Path, how: How) -> Found:
        held = safe.unpickle(path)
        remedy = "expected a list of {'item_id': 7, 'cluster_ids': [1, 2, 3]}"
        if not isinstance(held, list) or not held:
            raise DataError(f"{path.name} holds {type(held).__name__}, or nothing; {remedy}")
        ids, sids = [], []
        for row, entry in enumerate(held):
            if not isinstance(entry, dict) or not {"item_id", "cluster_ids"} <= set(entry):
                raise DataError(f"{path.name}: row {row} has no item_id and cluster_ids; {remedy}")
            ids.append(_id(entry["item_id"], row, path))
            where = f"{path.name}: row {row} (item {ids[-1]!r})"
            codes = entry["cluster_ids"]
            codes = codes.tolist() if isinstance(codes, np.ndarray) and codes.ndim == 1 else codes
            # Parts of a pickle may be shared: a few bytes may stand for lists without end.
            if isinstance(codes, (list, tuple)) and len(codes) > MOST_LEVELS:
                raise DataError(
                    f"{where} has {len(codes):,} codes, and {MOST_LEVELS} is the most; repair the row, or "
                    "give the file that holds SIDs"
                )
            if type(codes) is not list or not all(isinstance(c, (int, float, np.integer)) for c in codes):
                raise DataError(
                    f"{where} has cluster_ids that are no list of integers; repair the row: {remedy}"
                )
            sids.append(codes)
        return from_lists(sids, path.name, ids)

    def write(self, export: Export, path: Path) -> None:
        import pickle

        ids = export.sids.item_ids.tolist()
        codes = [[c for c in row if c >= 0] for row in export.sids.codes.tolist()]
        rows = [{"item_id": i, "cluster_ids": c} for i, c in zip(ids, codes, strict=True)]
        path.write_bytes(pickle.dumps(rows, protocol=4))


def _id(value: Any, row: int, path: Path) -> str:
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
    if type(value) not in (int, str) or (type(value) is int and abs(value) >> 63):
        raise DataError(
            f"{path.name}: row {row} has an item_id that is {type(value).__name__}; expected a number or text"
        )
    return str(value)
