"""recbole: an atomic .item file whose sid column is a token sequence."""

from __future__ import annotations

from pathlib import Path

from sidbench.errors import DataError, UsageError
from sidbench.format import Export, Format, Found, How
from sidbench.formats import safe, text
from sidbench.formats.codes import from_lists

HEADER = ("item_id:token", "sid:token_seq")


class RecBole(Format):
    """A .item file of RecBole: item_id:token, sid:token_seq; a_12 b_3, so that levels stay apart."""

    name = "recbole"
    system = "RecBole"
    file = "NAME.item"
    endings = (".item",)
    paper = "https://arxiv.org/abs/2011.01731"
    loses = "sizes"

    def read(self, path: Path, how: How) -> Found:
        lines = safe.read_text(path).removesuffix("\n").split("\n")
        header = lines[0].split("\t")
        named = [h.partition(":")[0] for h in header]
        kinds = dict(zip(named, (h.partition(":")[2] for h in header), strict=True))
        if kinds.get("item_id") != "token" or kinds.get("sid") != "token_seq":
            raise DataError(
                f"{path.name}: its first line is {lines[0][:80]!r}; expected {' and '.join(HEADER)}, a tab "
                "between"
            )
        id_at, sid_at = named.index("item_id"), named.index("sid")
        ids, sids = [], []
        for row, line in enumerate(lines[1:]):
            cells = line.split("\t")
            if len(cells) != len(header):
                raise DataError(
                    f"{path.name}: row {row} (line {row + 2}) has {len(cells)} columns, its header "
                    f"{len(header)}; repair the line"
                )
            ids.append(cells[id_at])
            sids.append(cells[sid_at].split(" ") if cells[sid_at] else [])
        return from_lists(sids, path.name, ids)

    def write(self, export: Export, path: Path) -> None:
        import pyarrow as pa

        if (odd := text.odd_name(export.names, r"[\t\n\r ]")) is not None:
            raise UsageError(f"{self.name} takes no tab, space or line's end in an id, and one is {odd!r}")
        sizes = export.sids.sizes
        before = [f"{letter}_" for letter in text.letters(len(sizes))]
        sid = text.joined(text.spelled(export.sids.codes, text.words(sizes, before, "", 0)), " ")
        text.write_lines(path, "\t".join(HEADER), [pa.array(export.names), sid])
