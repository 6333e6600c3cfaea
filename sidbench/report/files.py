"""Files: all that a board is on a disk: the Markdown, the page, and a picture a chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sidbench.report.board import Vectors, tables
from sidbench.report.charts import figures, file_name
from sidbench.report.check import check
from sidbench.report.drawing import check_file
from sidbench.report.markdown import leaderboard
from sidbench.report.page import check_page, page
from sidbench.report.table import Table

if TYPE_CHECKING:
    from sidbench.record import RunRecord

MARKDOWN, PAGE = "LEADERBOARD.md", "leaderboard.html"


class Boards:
    """Some records as tables and charts, made once; then as Markdown, as a page, as files."""

    def __init__(self, records: Iterable[RunRecord], vectors: Vectors, columns: Sequence[str] = ()) -> None:
        self.records = list(records)
        self.vectors = vectors
        #: Those that the Markdown shows alone; the page holds all.
        self.columns = columns
        found = tables(self.records, vectors)
        self.drawn = [(table, figures(table, vectors, found)) for table in found]

    @property
    def tables(self) -> list[Table]:
        return [table for table, _ in self.drawn]

    @property
    def markdown(self) -> str:
        return leaderboard(self.records, self.vectors, self.drawn, self.columns)

    def files(self, read: Callable[[str], str | None] = lambda _: None) -> dict[str, str]:
        """Every file by its name in the results folder. What others point to comes first.

        Of files that are there, as `read` finds them, pictures that are still right are taken.
        """
        for table, found in self.drawn:
            for figure in found:
                figure.take(read(file_name(table, figure)) or "")
        charts = {file_name(table, f): f.file for table, found in self.drawn for f in found}
        return {**charts, PAGE: page(self.drawn), MARKDOWN: self.markdown}

    def check(self, read: Callable[[str], str | None]) -> list[str]:
        """What differs between the files and the records, a line each; empty where they agree."""
        found = check(read(MARKDOWN) or "", self.records, self.vectors, self.markdown)
        text = read(PAGE)
        found += check_page(text, self.drawn) if text is not None else [f"{PAGE} is missing"]
        for table, own in self.drawn:
            for figure in own:
                name = file_name(table, figure)
                text = read(name)
                wrong = check_file(text, figure) if text is not None else "is missing"
                found += [f"{name} {wrong}"] if wrong else []
        return found
