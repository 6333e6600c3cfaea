"""openonerec: parquet of pid and codes, or of pid and the token string that its language model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sidbench.errors import DataError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import text
from sidbench.formats.tables import read_table

BEGIN, END = "<|sid_begin|>", "<|sid_end|>"


class OpenOneRec(Format):
    """OpenOneRec's parquet: pid, codes (a list of integers from 0)."""

    name = "openonerec"
    system = "OpenOneRec"
    file = "codes.parquet"
    lengths_differ = False
    paper = "https://arxiv.org/abs/2512.24762"
    loses = "sizes"

    def read(self, path: Path, how: How) -> Found:
        return read_table(path, ("pid",), ("codes",))

    def write(self, export: Export, path: Path) -> None:
        from sidbench.formats.tables import write_table

        write_table(export, path, "pid", "codes")


class OpenOneRecText(Format):
    """OpenOneRec's pid2sid parquet: pid, sid such as <|sid_begin|><s_a_340><s_b_6566><|sid_end|>, from 0."""

    name = "openonerec-text"
    system = "OpenOneRec"
    file = "pid2sid.parquet"
    endings = ("pid2sid.parquet",)
    lengths_differ = False
    paper = "https://arxiv.org/abs/2512.24762"
    loses = "sizes"

    def read(self, path: Path, how: How) -> Found:
        return read_table(path, ("pid",), ("sid",))

    def write(self, export: Export, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        sizes = export.sids.sizes
        before = [f"<s_{letter}_" for letter in text.letters(len(sizes))]
        spell = text.spelled(export.sids.codes, text.words(sizes, before, ">", 0))
        sids = pc.binary_join_element_wise(BEGIN, *spell, END, "")
        pq.write_table(
            pa.table({"pid": pa.array(export.sids.item_ids), "sid": sids}), path, compression="zstd"
        )


def split_tokens(sids: Any, name: str, ids: list[str]) -> Any:
    """Texts of tokens one after the other, with or without begin and end, as lists of tokens."""
    import pyarrow.compute as pc

    shape = rf"^({_escaped(BEGIN)})?(<[^<>|\s]+>)+({_escaped(END)})?$"
    odd = np.flatnonzero(
        ~pc.fill_null(pc.match_substring_regex(sids, shape), False).to_numpy(zero_copy_only=False)
    )
    if len(odd):
        row = int(odd[0])
        held = sids[row].as_py()
        said = "null" if held is None else repr(held[:60])
        raise DataError(
            f"{name}: row {row} (item {ids[row]!r}) is {said}, no text of tokens such as "
            f"{BEGIN}<s_a_340><s_b_6566>{END}; repair the row, or write the file again"
        )
    bare = pc.replace_substring(pc.replace_substring(sids, BEGIN, ""), END, "")
    return pc.split_pattern(pc.utf8_slice_codeunits(bare, 1, -1), "><")


def _escaped(token: str) -> str:
    return token.replace("|", r"\|")
