"""The page of proxies: what predicts the headline, in Markdown with its pictures beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from html import escape as html
from typing import Any

from sidbench.metrics import ABSENT, METRICS, metric
from sidbench.record import slug
from sidbench.report.charts.rows import intervals
from sidbench.report.charts.scale import HEIGHT, WIDTH, beside, domain, share
from sidbench.report.drawing import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    Figure,
    chart,
    place_labels,
    told,
)
from sidbench.report.markdown import escape
from sidbench.report.proxies import DRAWS, ORDERS, Group, Overall, Proxy, overall, verdict

PAGE, FOLDER = "PROXIES.md", "proxies"
#: Scatter plots a table: the numbers that go with the headline most.
PLOTS = 3

_HOW = f"""Training a decoder is dear, these numbers are cheap. For every comparable table of the board this
page says how each number that needs no decoder orders the tokenizers beside the headline: Spearman's ρ
and Kendall's τ over tokenizers, each the mean of its seeds. The interval is the middle 95% of {DRAWS:,}
bootstrap draws of methods (with all their variants) and of each one's seeds. p is two-sided, by
permutation ({ORDERS:,} orders, or all there are), and corrected for all numbers of the table (Holm). Floors
such as random codes are left out: one row far away from all others makes any correlation.

**What it does not show.** A number that goes with recall over these tokenizers need not cause it: a method
that is tuned to the number alone may break the tie. The tokenizers are what was at hand, no sample of all,
and most resemble each other. Whoever chooses by a proxy should still train the first few."""


def page(groups: Sequence[Group]) -> dict[str, str]:
    """Every file by its name in the results folder: the pictures, then the Markdown that shows them."""
    files = {file_name(group, f): f.file for group in groups for f in pictures(group)}
    return {**files, PAGE: markdown(groups)}


def markdown(groups: Sequence[Group]) -> str:
    """The page itself."""
    lines = ["# Which cheap number predicts recall?", "", _HOW, ""]
    if not groups:
        lines += ["No records of tokenizers yet: `sidbench run` makes some.", ""]
    over = overall(list(groups))
    if over:
        lines += ["## Over all tables", "", *_overall(over), ""]
    shown: set[str] = {o.name for o in over}
    for group in groups:
        lines += [f"## {escape(group.title)}", "", *(f"> {escape(said)}\n" for said in verdict(group))]
        shown |= {p.name for p in group.proxies}
        figures = pictures(group)
        lines += [
            f'<img src="{file_name(group, f)}" width="385" alt="{html(f"{f.title}. {f.caption}")}">'
            for f in figures
        ]
        lines += [""] if figures else []
        lines += [*_table(group), ""] if group.proxies else []
        lines += _skipped(group)
    if shown:
        lines += ["## Legend", ""]
        lines += [f"- **{m.label}**: {m.legend}" for m in METRICS.values() if m.name in shown]
    return "\n".join(lines).rstrip("\n") + "\n"


def pictures(group: Group) -> list[Figure]:
    """All numbers with their intervals, then the strongest against the headline."""
    if not group.proxies:
        return []
    return [_forest(group), *(_scatter(group, p) for p in group.proxies[:PLOTS])]


def file_name(group: Group, figure: Figure) -> str:
    """Where a picture lies, beside the page."""
    own = hashlib.sha256(json.dumps(group.table.agreed, sort_keys=True).encode()).hexdigest()[:8]
    return f"{FOLDER}/{slug(group.table.agreed['dataset']['name'])}-{own}-{figure.name}.svg"


def _table(group: Group) -> list[str]:
    floors = any(p.floored is not None for p in group.proxies)
    head = ["Number", "Rows", "Spearman ρ", "95% interval", "Kendall τ", "p", "p, corrected"]
    head += ["ρ with floors"] if floors else []
    lines = [f"| {' | '.join(head)} |", f"| :-- |{' --: |' * (len(head) - 1)}"]
    for p in group.proxies:
        rho = f"**{signed(p.rho)}**" if p.real else signed(p.rho)
        cells = [METRICS[p.name].label, str(len(p.rows)), rho, interval(p.low, p.high), signed(p.tau)]
        cells += [f"{p.p:.4f}", f"{p.corrected:.4f}"]
        cells += [signed(p.floored) if p.floored is not None else ABSENT] if floors else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _overall(over: Sequence[Overall]) -> list[str]:
    lines = [
        "The mean of ρ over tables, each with the same weight. Tables that share methods are taken as "
        "independent, which they are not: the intervals are too narrow rather than too wide.",
        "",
        "| Number | Tables | Same sign | Mean ρ | 95% interval | p | p, corrected |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for o in over:
        rho = f"**{signed(o.rho)}**" if o.corrected < 0.05 else signed(o.rho)
        cells = [METRICS[o.name].label, str(o.groups), f"{o.same_sign} of {o.groups}", rho]
        cells += [interval(o.low, o.high), f"{o.p:.4f}", f"{o.corrected:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _skipped(group: Group) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, why in group.skipped.items():
        reasons.setdefault(why, []).append(METRICS[name].label)
    return [f"- Left out, {why}: {', '.join(labels)}." for why, labels in reasons.items()] + (
        [""] if reasons else []
    )


def signed(x: float) -> str:
    """A correlation as every table prints it."""
    return f"{x:+.2f}" if math.isfinite(x) else ABSENT


def interval(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}" if math.isfinite(low) else ABSENT


def _forest(group: Group) -> Figure:
    """A line a number: its correlation and how far it may be otherwise."""
    data: list[dict[str, Any]] = [
        {
            "row": told(p.name, f"{METRICS[p.name].label}: ρ {signed(p.rho)}, {interval(p.low, p.high)}"),
            "name": METRICS[p.name].label,
            "mean": p.rho,
            "low": p.low if math.isfinite(p.low) else p.rho,
            "high": p.high if math.isfinite(p.high) else p.rho,
            "colour": VERMILION if p.real else GREY,
        }
        for p in group.proxies
    ]
    across = beside(d["name"] for d in data)
    caption = (
        f"Rank correlation of each number with {metric(group.headline).label} over {group.rows} tokenizers, "
        "with 95% intervals. Vermilion: beyond chance at 5%, corrected for all numbers tried; grey: not "
        "shown to be."
    )

    def build() -> Any:
        return intervals(data, across, "Spearman ρ", (-1, 1))

    return Figure("correlations", "What goes with recall", caption, data, build)


def _scatter(group: Group, proxy: Proxy) -> Figure:
    """One number against the headline, a point a tokenizer."""
    across, up = METRICS[proxy.name], metric(group.headline)
    xs, ys = domain(proxy.x.tolist(), log=False), domain(proxy.y.tolist(), log=False)
    pairs = list(zip(proxy.rows, proxy.x.tolist(), proxy.y.tolist(), strict=True))
    pixels = [
        (WIDTH * share(x, xs, log=False), HEIGHT * (1 - share(y, ys, log=False)), name)
        for name, x, y in pairs
    ]
    data: list[dict[str, Any]] = []
    for (name, x, y), place in zip(pairs, place_labels(pixels, (WIDTH, HEIGHT)), strict=True):
        said = f"{name}: {up.label} {up.show(y)}, {across.label.lower()} {across.show(x)}"
        label = {"left": place[0] / WIDTH, "top": 1 - place[1] / HEIGHT} if place else {}
        at = {
            "lx": xs[0] + label["left"] * (xs[1] - xs[0]) if label else None,
            "ly": ys[0] + label["top"] * (ys[1] - ys[0]) if label else None,
        }
        data.append({"row": told(proxy.name, said), "name": name, "x": x, "y": y, **at})
    title = f"{across.label} and {up.label}"
    caption = f"A point a tokenizer, mean over seeds; ρ = {signed(proxy.rho)}, τ = {signed(proxy.tau)}."

    def build() -> Any:
        import altair as alt

        shown = alt.Axis(format="~%" if "%" in across.format else "~g", tickCount=5)
        x = alt.X("x:Q", title=across.label, scale=alt.Scale(domain=list(xs), nice=False), axis=shown)
        y = alt.Y(
            "y:Q", title=up.label, scale=alt.Scale(domain=list(ys), nice=False), axis=alt.Axis(tickCount=5)
        )
        labels = chart([d | {"x": d["lx"], "y": d["ly"]} for d in data if d["lx"] is not None])
        return alt.layer(
            chart(data)
            .mark_point(filled=True, size=60, opacity=1, color=BLUE)
            .encode(x=x, y=y, description=alt.Description("row:N")),
            labels.mark_text(align="left", color=INK, aria=False).encode(x=x, y=y, text="name:N"),
        ).properties(width=WIDTH, height=HEIGHT)

    return Figure(proxy.name.replace("_", "-"), title, caption, data, build)
