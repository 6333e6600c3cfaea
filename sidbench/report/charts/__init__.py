"""Charts: what a table shows at a glance. Each is data and words; drawing.py makes the picture."""

from __future__ import annotations

from collections.abc import Sequence

from sidbench.report.board import Vectors, siblings
from sidbench.report.charts.lines import fitting, learning, lengths, popularity, read_curves
from sidbench.report.charts.pareto import BITS, frontier, pareto
from sidbench.report.charts.rows import differences, quality
from sidbench.report.charts.scale import CHARTS, file_name, key
from sidbench.report.charts.usage import levels, usage
from sidbench.report.drawing import Figure
from sidbench.report.table import Table

__all__ = ["CHARTS", "Figure", "figures", "file_name", "frontier", "key"]


def figures(table: Table, vectors: Vectors | None = None, others: Sequence[Table] = ()) -> list[Figure]:
    """Every chart that the table's records can feed; older records feed fewer.

    Among `others`, all tables of a board, are those that have the same rows with shorter or longer SIDs.
    """
    curves = read_curves(table, vectors) if vectors else {}
    drawn = [
        quality(table),
        differences(table),
        pareto(table, "encode_items_per_second", "speed", "encoding speed"),
        pareto(table, "collision_items", "collisions", "collisions"),
        pareto(table, BITS.name, "bits", "bits in use"),
        lengths(table, siblings(table, others)),
        popularity(table),
        learning(table, curves),
        fitting(table, curves),
        levels(table),
        usage(table, curves),
    ]
    return [figure for figure in drawn if figure is not None]
