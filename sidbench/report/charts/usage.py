"""Usage: how much of each level is used, and how evenly."""

from __future__ import annotations

from typing import Any

from sidbench.report import words
from sidbench.report.charts.lines import Curves
from sidbench.report.charts.scale import (
    LINE,
    beside,
    key,
)
from sidbench.report.drawing import (
    NOTHING,
    ON_DARK,
    ON_LIGHT,
    SIZE,
    STEPS,
    Figure,
    chart,
    told,
)
from sidbench.report.table import Table

#: How full a code is beside an even share of the items, from emptiest to fullest.
FILLS = ("none", "under ¼", "¼ to ½", "½ to 1", "1 to 2", "2 to 4", "over 4")


def levels(table: Table) -> Figure | None:
    """Codes in use and evenness of use, a cell a row and level."""
    sizes = table.agreed.get("shape")
    rows = [r for r in table.rows if {"utilization", "perplexity"} & r.levels.keys()]
    if not rows or not sizes:
        return None
    measures = {"utilization": "Codes in use", "perplexity": "Codes in effective use"}
    data: list[dict[str, Any]] = []
    for r in rows:
        for name, told_as in measures.items():
            for level, v in enumerate(r.levels.get(name, [])):
                share = v if name == "utilization" else v / sizes[level]
                step = min(len(STEPS) - 1, int(max(share, 0.0) * len(STEPS)))
                shown = f"{v:.0%}" if name == "utilization" else f"{v:,.0f}"
                of = f"{shown} of {sizes[level]:,}"
                data.append(
                    {
                        "row": told(key(table, r), f"{r.name}, level {level + 1}: {of} {told_as.lower()}"),
                        "name": r.name,
                        "measure": told_as,
                        "level": str(level + 1),
                        "colour": STEPS[step],
                        "shown": shown,
                        "ink": ON_LIGHT if step < 3 else ON_DARK,
                    }
                )
    caption = (
        "Left: the share of a level's codes that some item has. Right: its perplexity, the number of codes "
        "in effective use. A stronger colour is more of the level. Even use is not good use: random codes "
        "come near the maximum."
    )
    cell = min(46, (beside(r.name for r in rows) - 14) // (2 * len(sizes)))

    def build() -> Any:
        import altair as alt

        x = alt.X(
            "level:O",
            sort=None,
            title="Level",
            axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
        )
        y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False))
        both = alt.layer(
            alt.Chart()
            .mark_rect(stroke=None)
            .encode(x=x, y=y, color=alt.Color("colour:N", scale=None), description=alt.Description("row:N")),
            alt.Chart()
            .mark_text(fontSize=SIZE - 1.5, aria=False)
            .encode(x=x, y=y, text="shown:N", color=alt.Color("ink:N", scale=None)),
            data=chart(data).data,
        ).properties(width=cell * len(sizes), height=LINE * len(rows))
        return both.facet(
            column=alt.Column("measure:N", sort=list(measures.values()), title=None), spacing=14
        )

    return Figure("levels", "Code usage by level", caption, data, build)


def usage(table: Table, curves: Curves) -> Figure | None:
    """Every code of every level, the fullest first, coloured by how many items it holds."""
    sizes = table.agreed.get("shape")
    if not sizes:
        return None
    data: list[dict[str, Any]] = []
    for r in table.rows:
        runs = curves.get(r.name, ())
        for level, size in enumerate(sizes, 1):
            counts = runs[0].get(f"usage_{level}") if runs else None
            if counts is None or not len(counts) or not counts.sum():
                continue
            even = counts.sum() / size
            fills = [_fill(float(c) / even) for c in counts]
            start = 0
            for fill in sorted(set(fills), reverse=True):
                n = fills.count(fill)
                said = f"{r.name}, level {level}: {n:,} of {size:,} codes hold {FILLS[fill]} of an even share"
                data.append(
                    {
                        "row": told(key(table, r), said),
                        "name": r.name,
                        "level": f"Level {level}",
                        "from": start / size,
                        "to": (start + n) / size,
                        "fill": FILLS[fill],
                    }
                )
                start += n
    if not data:
        return None
    names = list(dict.fromkeys(str(d["name"]) for d in data))
    caption = (
        "All codes of a level from left to right, the fullest first; the colour says how many items a code "
        f"holds beside an even share ({words.shape(table)} codes, the first seed). A level in one colour is "
        "used evenly; a strong start with a faint tail crowds items into few codes."
    )

    def build() -> Any:
        import altair as alt

        bars = (
            chart(data)
            .mark_rect(stroke=None)
            .encode(
                x=alt.X(
                    "from:Q",
                    title=None,
                    axis=alt.Axis(format="%", values=[0, 0.5, 1], grid=False, ticks=False),
                    scale=alt.Scale(domain=[0, 1]),
                ),
                x2="to:Q",
                y=alt.Y(
                    "name:N",
                    sort=None,
                    title=None,
                    scale=alt.Scale(paddingInner=0.12),
                    axis=alt.Axis(ticks=False, domain=False),
                ),
                color=alt.Color(
                    "fill:N",
                    scale=alt.Scale(domain=list(FILLS), range=[NOTHING, *STEPS]),
                    legend=alt.Legend(
                        orient="bottom",
                        title="Items of a code, of an even share",
                        symbolType="square",
                        symbolStrokeWidth=0,
                        columns=7,
                        symbolSize=90,
                        columnPadding=8,
                    ),
                ),
                description=alt.Description("row:N"),
            )
            .properties(width=max(50, beside(names) // len(sizes) - 12), height=LINE * len(names))
        )
        levels = alt.Column("level:N", sort=None, title=None)
        return bars.facet(column=levels, spacing=10)

    return Figure("usage", "How full the codes are", caption, data, build)


def _fill(share: float) -> int:
    """The place in `FILLS` of a code's items / even share."""
    if share <= 0:
        return 0
    return 1 + sum(share >= edge for edge in (0.25, 0.5, 1.0, 2.0, 4.0))
