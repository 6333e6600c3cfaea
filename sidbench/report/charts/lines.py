"""Lines: what the decoder and the tokenizers went through as they learned; recall from head to tail."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sidbench.errors import DataError
from sidbench.metrics import metric
from sidbench.report import words
from sidbench.report.board import Vectors
from sidbench.report.charts.scale import (
    HEIGHT,
    WIDTH,
    beside,
    domain,
    key,
    known,
)
from sidbench.report.drawing import (
    BLUE,
    DASHES,
    HUES,
    Figure,
    chart,
    spread,
    thinned,
    told,
)
from sidbench.report.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What lies beside the runs of each row.
Curves = Mapping[str, Sequence[Mapping[str, "NDArray[Any]"]]]


def read_curves(table: Table, vectors: Vectors) -> Curves:
    """What lies beside the runs of each row; a row whose files are gone or torn has no curves."""
    found: dict[str, list[Mapping[str, NDArray[Any]]]] = {}
    for row in table.rows:
        for run in row.runs:
            if run.status == "ok":
                try:
                    found.setdefault(row.name, []).append(vectors(run))
                except DataError:
                    found.pop(row.name, None)
                    break
    return found


def _mean_curve(
    runs: Sequence[Mapping[str, NDArray[Any]]], x: str | None, y: str
) -> tuple[list[float], list[float]] | None:
    """The mean over seeds, as far as all of them went; x counts from 1 where none is named."""
    if not runs or any(y not in run or (x is not None and x not in run) for run in runs):
        return None
    n = min(len(run[y]) for run in runs)
    if n < 2 or any(run[y].ndim != 1 for run in runs):
        return None
    across = [float(v) for v in runs[0][x][:n]] if x is not None else [float(i) for i in range(1, n + 1)]
    means = [statistics.fmean(float(run[y][i]) for run in runs) for i in range(n)]
    return (across, means) if all(map(math.isfinite, means)) else None


def learning(table: Table, curves: Curves) -> Figure | None:
    """How the decoder learned on each row's SIDs: the validation number that stopped it, by step."""
    names = [n for runs in curves.values() for run in runs for n in run if n.startswith("curve_valid_")]
    watched = [n for n in dict.fromkeys(names) if known(n.removeprefix("curve_valid_"))]
    if not watched:
        return None
    name = watched[0]
    found = {r.name: _mean_curve(curves.get(r.name, ()), "curve_valid_step", name) for r in table.rows}
    lines = {n: line for n, line in found.items() if line}
    column = metric(name.removeprefix("curve_valid_"))
    label = column.label
    title = "What the decoder learned"
    caption = (
        f"{label} of the validation part by training step, mean over seeds. Point at a line for its name."
    )
    said_of = {n: f"{n}: {column.show(ys[-1])} after {xs[-1]:,.0f} steps" for n, (xs, ys) in lines.items()}
    return _lines(table, "learning", (title, caption), lines, said_of, ("Step", f"Validation {label}"))


def lengths(table: Table, family: Sequence[Table]) -> Figure | None:
    """The rows of a table at every SID length that was run: what do more bits buy?"""
    head = table.headline
    bits = {id(t): words.bits(t) for t in family}
    if head is None or len(set(bits.values())) < 2:
        return None
    column = metric(head)
    lines = {}
    for row in table.rows:
        at = {
            bits[id(t)]: other.values[head].mean
            for t in family
            for other in t.rows
            if other.name == row.name and other.kind != "reference" and head in other.values
        }
        if at:
            lines[row.name] = (sorted(at), [at[b] for b in sorted(at)])
    title = f"{column.label} against bits per item"
    caption = (
        "The rows of this table with shorter and longer SIDs, all else as here. Bits per item: Σ log2 of the "
        "codes of each level."
    )
    said_of = {
        n: f"{n}: " + ", ".join(f"{column.show(y)} at {x:.4g} bits" for x, y in zip(xs, ys, strict=True))
        for n, (xs, ys) in lines.items()
    }
    axes = ("Bits per item", column.label)
    return _lines(table, "lengths", (title, caption), lines, said_of, axes, ticks=sorted(set(bits.values())))


def popularity(table: Table) -> Figure | None:
    """How recall falls from targets that everybody meets to those that nobody knows."""
    name = table.by_popularity
    if name is None:
        return None
    column = metric(name)
    lines = {
        r.name: ([float(i) for i in range(1, len(r.levels[name]) + 1)], r.levels[name])
        for r in table.rows
        if name in r.levels
    }
    title = "Recall by popularity of the target"
    caption = (
        "Ten parts with equally many test targets, from those that training met most often to those that it "
        "met least, mean over seeds."
    )
    said_of = {
        n: f"{n}: {column.show(ys[0])} at the head, {column.show(ys[-1])} at the tail"
        for n, (_, ys) in lines.items()
    }
    axes = ("Tenth of the targets, head to tail", metric(table.headline or name).label)
    return _lines(table, "popularity", (title, caption), lines, said_of, axes)


def _lines(
    table: Table,
    short: str,
    heading: tuple[str, str],
    lines: Mapping[str, tuple[list[float], list[float]]],
    said: Mapping[str, str],
    axes: tuple[str, str],
    *,
    ticks: Sequence[float] = (),
) -> Figure | None:
    """One line a row, named at its end; with a point at every tick, where ticks are given."""
    data: list[dict[str, Any]] = []
    for i, r in enumerate(table.rows):  # a row has one colour in all charts of a table
        if r.name not in lines:
            continue
        xs, ys = lines[r.name]
        data.append(
            {
                "row": told(key(table, r), said[r.name]),
                "name": r.name,
                "colour": HUES[i % len(HUES)],
                "dash": DASHES[i // len(HUES) % len(DASHES)],
                "points": [[xs[j], ys[j]] for j in thinned(xs)],
            }
        )
    if not data:
        return None
    ends = [d["points"][-1][1] for d in data]
    every = [y for d in data for _, y in d["points"]]
    low, high = domain(every, log=False)
    height = max(HEIGHT, 14 * len(data))
    pixels = [height * (1 - (e - low) / (high - low)) for e in ends]
    labels = [low + (high - low) * (1 - p / height) for p in spread(pixels, 13, height)]
    across = beside(d["name"] for d in data) - 42

    def build() -> Any:
        import altair as alt

        y = alt.Y(
            "y:Q", title=axes[1], scale=alt.Scale(domain=[low, high], nice=False), axis=alt.Axis(tickCount=5)
        )
        few: Any = {"values": list(ticks)} if ticks else {"tickCount": 5}
        x = alt.X("x:Q", title=axes[0], scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, **few))
        drawn: list[Any] = []
        for d, label in zip(data, labels, strict=True):
            say = {"description": alt.Description("row:N")}
            dot: Any = {"filled": True, "size": 40, "color": d["colour"]} if ticks else False
            line = chart([{"row": d["row"], "x": a, "y": b} for a, b in d["points"]])
            drawn.append(
                line.mark_line(color=d["colour"], strokeDash=d["dash"], strokeWidth=1.6, point=dot).encode(
                    x=x, y=y, **say
                )
            )
            drawn.append(
                chart([{"row": d["row"], "name": d["name"], "y": label}])
                .mark_text(align="left", baseline="middle", color=d["colour"])
                .encode(x=alt.value(across + 6), y=y, text="name:N", **say)
            )
        return alt.layer(*drawn).properties(width=across, height=height)

    return Figure(short, *heading, [data, axes], build)


def fitting(table: Table, curves: Curves) -> Figure | None:
    """The loss of the tokenizers that are trained, each on its own scale: losses are not of one kind."""
    shown = [(r, line) for r in table.rows if (line := _mean_curve(curves.get(r.name, ()), None, "fit_loss"))]
    if not shown:
        return None
    data: list[dict[str, Any]] = [
        {
            "row": told(
                key(table, r), f"{r.name}: loss {ys[0]:.4g} at first, {ys[-1]:.4g} after {xs[-1]:.0f}"
            ),
            "name": r.name,
            "points": [[xs[j], ys[j]] for j in thinned(xs)],
        }
        for r, (xs, ys) in shown
    ]
    caption = (
        "Training loss by epoch, mean over seeds. Each has its own scale, since each loss is of its own "
        "kind: read the shape, compare no heights."
    )

    def build() -> Any:
        import altair as alt

        flat = [d | {"x": x, "y": y} for d in data for x, y in d["points"]]
        lines = (
            chart([{k: v for k, v in f.items() if k != "points"} for f in flat])
            .mark_line(color=BLUE, strokeWidth=1.6)
            .encode(
                x=alt.X(
                    "x:Q", title=None, axis=alt.Axis(tickCount=3, grid=False), scale=alt.Scale(nice=False)
                ),
                y=alt.Y(
                    "y:Q", title=None, axis=alt.Axis(tickCount=3, format="~g"), scale=alt.Scale(zero=False)
                ),
                description=alt.Description("row:N"),
            )
            .properties(width=(WIDTH - 40) // 2, height=80)
        )
        facet = alt.Facet("name:N", sort=[d["name"] for d in data], title=None)
        return lines.facet(facet, columns=2, spacing=14).resolve_scale(x="independent", y="independent")

    return Figure("fitting", "What the tokenizers' training went through", caption, data, build)
