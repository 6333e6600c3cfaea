"""Rows: the headline of each, and how far it is behind the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidbench.metrics import metric
from sidbench.report.charts.scale import (
    KINDS,
    LINE,
    beside,
    best_reference,
    key,
)
from sidbench.report.drawing import (
    GREY,
    MUTED,
    VERMILION,
    Figure,
    chart,
    told,
    width,
)
from sidbench.report.table import Table


def quality(table: Table) -> Figure | None:
    name = table.headline
    rows = [r for r in table.rows if name in r.values] if name else []
    if not name or not rows:
        return None
    column, letters = metric(name), table.letters
    repeated = any(len(r.seeds) > 1 for r in rows)
    data: list[dict[str, Any]] = []
    for r in rows:
        value = r.values[name]
        said = f"{r.name}: {column.label} {column.show(value.mean, value.sd)}"
        data.append(
            {
                "row": told(key(table, r), said),
                "name": r.name,
                "colour": KINDS[r.kind],
                "mean": value.mean,
                "low": value.mean - (value.sd or 0),
                "high": value.mean + (value.sd or 0),
                "seeds": [run.metrics[name] for run in r.runs if name in run.metrics],
                "letters": letters.get(r.name, ""),
            }
        )
    across = beside(d["name"] for d in data) - (width(max(letters.values(), key=len)) + 10 if letters else 0)
    caption = "Blue are tokenizers, grey the floor, orange the references, which need no SIDs."
    if repeated:
        caption += " A dot is the mean over seeds, a tick each seed, the bar ± one standard deviation."
    if letters:
        caption += " Rows that share a letter cannot be told apart at 5%."

    def build() -> Any:
        import altair as alt

        base = chart(data)
        y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
        x = alt.X(
            "mean:Q", title=column.label, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=5)
        )
        colour = alt.Color("colour:N", scale=None)
        say = alt.Description("row:N")
        seeds = chart([d | {"seed": s} for d in data for s in d["seeds"]] if repeated else [])
        return alt.layer(
            base.mark_rule(strokeWidth=5, opacity=0.25, aria=False).encode(
                y=y, x=alt.X("low:Q", title=column.label), x2="high:Q", color=colour
            ),
            seeds.mark_tick(thickness=1.5, size=11, opacity=0.7, aria=False).encode(
                y=y, x="seed:Q", color=colour
            ),
            base.mark_point(filled=True, size=64, opacity=1).encode(y=y, x=x, color=colour, description=say),
            base.mark_text(align="left", color=MUTED, aria=False).encode(
                y=y, x=alt.value(across + 8), text="letters:N"
            ),
        ).properties(width=across, height=LINE * len(data))

    return Figure("quality", column.label, caption, data, build)


def differences(table: Table) -> Figure | None:
    first = table.rows[0]
    by_name = {r.name: r for r in table.rows}
    best = best_reference(table)
    # Floors and weak references are far away: their distance would hide all the others.
    found = [
        d
        for d in table.differences
        if d.a == first.name and (by_name[d.b].kind == "method" or by_name[d.b] is best)
    ]
    if not found or not table.headline:
        return None
    column = metric(table.headline)
    data: list[dict[str, Any]] = [
        {
            "row": told(
                key(table, by_name[d.b]),
                f"{d.b}: {column.show(d.mean)} less than {d.a}, 95% interval {column.show(d.low)} to "
                f"{column.show(d.high)}, p {d.p:.4f}",
            ),
            "name": d.b,
            "mean": d.mean,
            "low": d.low,
            "high": d.high,
            "colour": VERMILION if d.real else GREY,
        }
        for d in found
    ]
    across = beside(d["name"] for d in data)
    title = f"How much less than {first.name}"
    caption = (
        f"Difference in {column.label} to the first row, with the 95% interval of each pair alone (paired "
        "bootstrap over users and seeds). Vermilion: more than chance at 5%, corrected for all pairs; grey: "
        "not shown to be."
    )

    def build() -> Any:
        return intervals(data, across, f"{column.label}, less")

    return Figure("differences", title, caption, data, build)


def intervals(
    data: Sequence[Mapping[str, Any]], across: float, title: str, domain: Sequence[float] | None = None
) -> Any:
    """A line a row: its mean in its interval, beside zero."""
    import altair as alt

    base = chart(data)
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, grid=True))
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(padding=8)
    x: dict[str, Any] = {"title": title, "scale": scale, "axis": alt.Axis(tickCount=5)}
    colour = alt.Color("colour:N", scale=None)
    return alt.layer(
        chart([{"zero": 0}]).mark_rule(color=MUTED, aria=False).encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2, aria=False).encode(
            y=y, x=alt.X("low:Q", **x), x2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=52, opacity=1).encode(
            y=y, x=alt.X("mean:Q", **x), color=colour, description=alt.Description("row:N")
        ),
    ).properties(width=across, height=LINE * len(data))
