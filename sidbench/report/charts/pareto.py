"""Pareto: the headline against what it costs, and which rows no other beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sidbench.metrics import Metric, metric
from sidbench.report.charts.scale import (
    HEIGHT,
    WIDTH,
    best_reference,
    domain,
    inverse,
    key,
    share,
)
from sidbench.report.drawing import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    Figure,
    chart,
    place_labels,
    told,
)
from sidbench.report.table import Row, Table, Value

BITS = Metric(
    name="bits_in_use", label="Bits in use", source="sids", direction="lower", format=".1f",
    legend="Σ over levels of log2 of the level's perplexity: what an item's codes can say at most when each "
    "level is used as it is. It does not see what levels repeat of each other.",
)  # fmt: skip


def frontier(points: Sequence[tuple[float, float]], *, lower: bool) -> list[int]:
    """Places of the points that no other beats: as good in both, better in one. Of y, more is better."""
    side = [(-x if lower else x, y) for x, y in points]
    return [
        i for i, (x, y) in enumerate(side) if not any(a >= x and b >= y and (a > x or b > y) for a, b in side)
    ]


def pareto(table: Table, name: str, short: str, against: str) -> Figure | None:
    """The headline against what it costs. Tokenizers alone: references have no SIDs, floors no claim."""
    head = table.headline
    if head is None:
        return None
    found = [(r, x) for r in table.rows if r.kind == "method" and head in r.values and (x := _at(r, name))]
    if len({x.mean for _, x in found}) < 2:
        return None
    across, up = BITS if name == BITS.name else metric(name), metric(head)
    log = across.unit != "" and all(x.mean > 0 for _, x in found)
    xs = domain([x.mean for _, x in found], log=log)
    heights = [r.values[head] for r, _ in found]
    ys = domain([v.mean + s * (v.sd or 0) for v in heights for s in (-1, 1)], log=False)
    best = best_reference(table)
    rule: list[dict[str, Any]] = [{"y": best.values[head].mean, "name": best.name}] if best else []
    seen = bool(rule) and ys[0] <= rule[0]["y"] <= ys[1]
    at = [(x.mean, r.values[head].mean) for r, x in found]
    front = set(frontier(at, lower=across.direction == "lower"))
    steps = _stairs([at[i] for i in sorted(front, key=at.__getitem__)], across.direction == "lower")

    def pixel(x: float, y: float) -> tuple[float, float]:
        return WIDTH * share(x, xs, log=log), HEIGHT * (1 - share(y, ys, log=False))

    order = sorted(range(len(found)), key=lambda i: (i not in front, i))
    named = [(*pixel(*at[i]), found[i][0].name) for i in order]
    edge = [pixel(step["x"], step["y"]) for step in steps]
    places = dict(zip(order, place_labels(named, (WIDTH, HEIGHT), edge), strict=True))
    data: list[dict[str, Any]] = []
    for i, (r, x) in enumerate(found):
        y, place = r.values[head], places[i]
        said = f"{r.name}: {up.label} {up.show(y.mean, y.sd)}"
        said += f", {across.label.lower()} {across.show(x.mean, x.sd)}"
        data.append(
            {
                "row": told(key(table, r), f"{said}{f' {across.unit}' if across.unit else ''}"),
                "name": r.name,
                "x": x.mean,
                "y": y.mean,
                "low": y.mean - (y.sd or 0),
                "high": y.mean + (y.sd or 0),
                "front": i in front,
                "label": None
                if place is None
                else [
                    inverse(place[0] / WIDTH, xs, log=log),
                    inverse(1 - place[1] / HEIGHT, ys, log=False),
                ],
            }
        )
    better = {
        "lower": "fewer is better" if short != "bits" else "shorter is better",
        "higher": "more is better",
    }
    axis = f"{across.label}{f' ({across.unit})' if across.unit else ''}, {better[across.direction]}"
    caption = "Filled, and joined by the line: no other tokenizer beats these in both."
    if best:
        value = up.show(best.values[head].mean)
        caption += f" The best reference, {best.name}, is at {value}{' (dashed)' if seen else ''}."
    if name == BITS.name:
        caption += f" {BITS.label}: {BITS.legend}"
    bounds = {"x": xs, "y": ys}

    def build() -> Any:
        import altair as alt

        ticks = _powers(xs) if log else None
        x = alt.X(
            "x:Q",
            title=axis,
            scale=alt.Scale(type="log" if log else "linear", domain=list(xs), nice=False),
            axis=alt.Axis(
                format="~s" if log else "~%" if "%" in across.format else "~g",
                **({"values": ticks} if ticks else {"tickCount": 5}),
            ),
        )
        y = alt.Y(
            "y:Q", title=up.label, scale=alt.Scale(domain=list(ys), nice=False), axis=alt.Axis(tickCount=5)
        )
        base = chart(data)
        say = alt.Description("row:N")
        labels = chart([d | {"x": d["label"][0], "y": d["label"][1]} for d in data if d["label"]])
        bold = alt.condition("datum.front", alt.value(INK), alt.value(MUTED))
        return alt.layer(
            chart(rule if seen else [])
            .mark_rule(color=ORANGE, strokeDash=[4, 3], strokeWidth=1.2, aria=False)
            .encode(y=y),
            chart(steps)
            .mark_line(color=BLUE, strokeWidth=1.2, opacity=0.55, aria=False)
            .encode(x=x, y=y, order="order:Q"),
            base.mark_rule(strokeWidth=1.2, opacity=0.4, color=BLUE, aria=False).encode(
                x=x, y=alt.Y("low:Q"), y2="high:Q"
            ),
            chart([d for d in data if not d["front"]])
            .mark_point(filled=False, strokeWidth=1.8, size=54, opacity=1, color=BLUE)
            .encode(x=x, y=y, description=say),
            chart([d for d in data if d["front"]])
            .mark_point(filled=True, size=64, opacity=1, color=BLUE)
            .encode(x=x, y=y, description=say),
            labels.mark_text(align="left", baseline="middle").encode(
                x=x, y=y, text="name:N", color=bold, description=say
            ),
        ).properties(width=WIDTH, height=HEIGHT)

    title = f"{up.label} against {against}"
    return Figure(short, title, caption, [data, rule, steps, bounds], build)


def _at(row: Row, name: str) -> Value | None:
    if name != BITS.name:
        return row.values.get(name)
    levels = row.levels.get("perplexity", [])
    return Value(sum(math.log2(p) for p in levels if p > 0), None) if levels else None


def _stairs(points: Sequence[tuple[float, float]], lower: bool) -> list[dict[str, float]]:
    """The edge of what is reached, through points in order of x."""
    out: list[tuple[float, float]] = []
    for x, y in points:
        if out:  # between two points, what is reached is the worse of each
            out.append((x, out[-1][1]) if lower else (out[-1][0], y))
        out.append((x, y))
    return [{"x": x, "y": y, "order": i} for i, (x, y) in enumerate(out)]


def _powers(domain: tuple[float, float]) -> list[float]:
    """Ticks of a log axis: powers of ten, with others between where they are few; round numbers at least."""
    low, high = domain
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for between in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [b * 10.0**e for e in range(first, last + 1) for b in between if low <= b * 10.0**e <= high]
        if len(ticks) >= 3:
            return ticks
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (size, size / 2, size / 5, size / 10) if (high - low) / s >= 3)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
