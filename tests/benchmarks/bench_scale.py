"""What a catalogue costs by its size: `python tests/benchmarks/bench_scale.py [--items N,N] [--full]`.

100 thousand, a million and ten million items of 32 dimensions (those of bench_resolvers.py), 4 x 256 codes,
in 5 minutes. Every stage in a process of its own: fit, encode, resolve, write, the decoder's tree, a search.
Writes results/published/scale.json, its picture scale.svg, and the table between the marks of docs/scale.md.
Table and picture go by seconds of the processor, all cores together, which other work on the machine hardly
changes; those of the wall stand beside them in the JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured import mapped, measured, world

from sidbench import provenance
from sidbench.report.drawing import DASHES, HUES, INK, MUTED, Figure, chart, spread

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"
DIMENSIONS, LEVELS, CODES, USERS = 32, 4, 256, 256
HEIGHT = 300  # of the picture
MOST = 10_000_000
#: Stage: (method, parameters, the most items that it is measured on, what the table says of it).
STAGES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "fit": ("rq-kmeans", {}, MOST, "fit: `rq-kmeans`, a sample of 262,144 (`sample = auto`)"),
    "fit all": ("rq-kmeans", {"sample": 0, "iters": 10}, 1_000_000, "fit: `rq-kmeans`, all rows, 10 iter."),
    "fit batches": ("rq-kmeans", {"minibatch": 65_536, "iters": 1}, 1_000_000, "fit: `rq-kmeans`, one pass"),
    "fit balanced": ("rq-kmeans-balanced", {"iters": 10}, 100_000, "fit: `rq-kmeans-balanced`, 10 iter."),
    "fit network": ("rq-vae", {"epochs": 5}, 100_000, "fit: `rq-vae`, 5 epochs"),
    "encode": ("rq-kmeans", {}, MOST, "encode: `rq-kmeans`"),
    "encode network": ("rq-vae", {}, 100_000, "encode: `rq-vae`"),
    "suffix": ("suffix", {}, MOST, "resolve: `suffix`"),
    "random-free": ("random-free", {}, MOST, "resolve: `random-free`"),
    "nearest-free": ("nearest-free", {}, MOST, "resolve: `nearest-free`"),
    "min-cost-last": ("min-cost-last", {}, 1_000_000, "resolve: `min-cost-last`"),
    "sinkhorn-group": ("sinkhorn-group", {}, MOST, "resolve: `sinkhorn-group`"),
    "write": ("", {}, MOST, "write: SIDs as parquet"),
    "tree": ("", {}, MOST, "decoder: the tree of all SIDs"),
    "search": ("", {}, MOST, "decoder: 256 users searched (preset `quick`, untrained)"),
}  # fmt: skip
#: Bytes a row that these hold beside the mapped file (docs/scale.md says of what): so memory grows, however
#: many rows there are. At a million rows the file itself is copied into memory, at ten million it is not.
HELD = {
    "fit": 0,
    "fit all": 60,
    "fit batches": 8,
    "fit network": 24,
    "encode": 0,
    "encode network": 0,
}

#: Rows that these look at in the most: more cost nothing more.
SEEN = {"fit balanced": 262_144}


def work(folder: Path, n: int, stage: str) -> Callable[[], Any]:
    """One stage, ready to begin; it returns what else is worth keeping."""
    from sidbench import registry
    from sidbench.sids import SIDs

    method, params, _, _ = STAGES[stage]
    x = mapped(folder / f"x{n}.npy")
    if stage.startswith("fit"):
        t = registry.find("tokenizer", method)(levels=LEVELS, codebook_size=CODES, device="cpu", **params)
        t.replace(**({"epochs": 1} if "epochs" in params else {})).fit(np.array(x[:2000]))
        return lambda: _fitted(t, x, folder / f"{stage}{n}")
    if stage.startswith("encode"):
        t = registry.load_tokenizer(folder / (f"fit{n}" if stage == "encode" else f"fit network{n}"), "cpu")
        t.encode(x[:2000])
        return lambda: _encoded(t, x, folder / f"{'codes' if stage == 'encode' else 'other codes'}{n}.npy")
    codes, ids = np.load(folder / f"codes{n}.npy"), np.arange(n)
    sids = SIDs(codes, (CODES,) * LEVELS, ids)
    if stage == "write":
        sids.replace(codes=codes[:9], item_ids=ids[:9]).save(folder / "few")
        return lambda: _written(sids, folder / "sids")
    if stage in ("tree", "search"):
        return _decoding(sids, searched=stage == "search")
    resolver = registry.find("resolver", method)()
    t = registry.load_tokenizer(folder / f"fit{n}", "cpu")
    return lambda: _resolved(resolver.resolve(sids, t, x), codes)


def _fitted(t: Any, x: Any, folder: Path) -> dict[str, Any]:
    t.fit(x).save(folder)
    return {k: v for k, v in t.facts().get("sampled", {}).items() if k.startswith("error")}


def _encoded(t: Any, x: Any, path: Path) -> dict[str, Any]:
    """As a catalogue is encoded: a piece at a time, to a file."""
    codes = np.lib.format.open_memmap(path, "w+", np.int32, (len(x), LEVELS))
    step = 1 << 18
    for at in range(0, len(x), step):
        codes[at : at + step] = t.encode(x[at : at + step])
    codes.flush()
    return {}


def _resolved(found: Any, codes: Any) -> dict[str, Any]:
    return {"moved": round(float((found.codes[:, :LEVELS] != codes).any(axis=1).mean()), 5)}


def _written(sids: Any, folder: Path) -> dict[str, Any]:
    sids.save(folder)
    return {"disk": (folder / "sids.parquet").stat().st_size}


def _decoding(sids: Any, *, searched: bool) -> Callable[[], Any]:
    """The tree of the SIDs and an untrained model, or the search in it."""
    from sidbench.dataset import Sequences
    from sidbench.decoder import Decoder

    decoder = Decoder(device="cpu")
    if not searched:
        return lambda: decoder._prepare(sids)
    decoder._prepare(sids)
    users = Sequences.of(np.random.default_rng(0).integers(len(sids), size=(USERS, 8)).tolist())

    def search() -> None:
        decoder.recommend(users, 10)

    return search


def measure(
    sizes: Sequence[int], folder: Path, stages: Sequence[str], full: bool = False
) -> list[dict[str, Any]]:
    """Every stage at every size; what takes long at the smaller ones only, unless all is asked for."""
    found = []
    for n in sizes:
        world(folder / f"x{n}.npy", n, DIMENSIONS)
        for stage in stages:
            if n > STAGES[stage][2] and not full:
                continue
            more, cost = measured(work, folder, n, stage)
            found.append(
                {
                    "stage": stage,
                    "items": n,
                    "seconds": round(cost.seconds, 3),
                    "processor_seconds": round(cost.processor, 3),
                    "memory_gb": round(cost.memory, 3),
                    "memory_before_gb": round(cost.before, 3),
                    **(more or {}),
                }
            )
            print(json.dumps(found[-1]), flush=True)
        for path in folder.glob(f"*{n}.npy"):
            path.unlink()
    return found


def slopes(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How seconds of the processor grow with items, as a power, between the two largest sizes."""
    out = {}
    for stage in STAGES:
        points = sorted((p["items"], p["processor_seconds"]) for p in found if p["stage"] == stage)[-2:]
        if len(points) == 2 and points[0][1] > 0:
            (few, less), (many, more) = points
            out[stage] = round(math.log(more / less) / math.log(many / few), 2)
    return out


def table(data: dict[str, Any]) -> str:
    """What docs/scale.md shows."""
    sizes = data["items"]
    lines = [
        f"| Stage | {' | '.join(_short(n) for n in sizes)} | grows as | memory | a billion | and memory |",
        f"| :-- | {' | '.join('--:' for _ in sizes)} | :-: | --: | --: | --: |",
    ]
    for stage, (_, _, _, words) in STAGES.items():
        points = {p["items"]: p for p in data["measured"] if p["stage"] == stage}
        if not points:
            continue
        cells = [_time(points[n]["processor_seconds"]) if n in points else "–" for n in sizes]
        power = data["grows"].get(stage)
        lines.append(
            f"| {words} | {' | '.join(cells)} | {'–' if power is None else f'n^{power:.2f}'} "
            f"| {points[max(points)]['memory_gb']:.2g} GB "
            f"| {_time(_billion(points, 'processor_seconds', SEEN.get(stage, 10**9)))} "
            f"| {_space(_memory(stage, points))} |"
        )
    return "\n".join(lines)


def _memory(stage: str, points: dict[int, dict[str, Any]]) -> float:
    """Of a billion: by what is held a row, where that is known; else by what was measured."""
    if stage not in HELD:
        return _billion(points, "memory_gb", SEEN.get(stage, 10**9))
    most = max(points)
    return float(points[most]["memory_gb"] + HELD[stage] * (10**9 - most) / 2**30)


def _billion(points: dict[int, dict[str, Any]], what: str, items: int) -> float:
    """What so many would take: in a line through the two largest sizes; where there is one, in proportion."""
    most = max(points)
    few = max((n for n in points if n < most), default=0)
    start = points[few][what] if few else points[most]["memory_before_gb"] if what == "memory_gb" else 0.0
    return float(start + max(points[most][what] - start, 0.0) * (items - few) / (most - few))


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _space(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes < 10 else f"{gigabytes:,.0f} GB"


def _short(n: int) -> str:
    return f"{n // 10**6} million" if n >= 10**6 else f"{n // 1000} thousand" if n >= 1000 else str(n)


def picture(data: dict[str, Any]) -> Figure:
    """Seconds by items, both in powers of ten, and a line along which cost is in proportion."""
    shown = ["fit", "fit all", "encode", "nearest-free", "suffix", "write", "tree"]
    points = [p for p in data["measured"] if p["stage"] in shown and p["processor_seconds"] > 0]
    rows = [{"items": p["items"], "seconds": p["processor_seconds"], "stage": p["stage"]} for p in points]
    last = {r["stage"]: r for r in sorted(rows, key=lambda r: float(r["items"]))}
    first, most = min(r["seconds"] for r in rows), max(r["seconds"] for r in rows)
    low, high = min(data["items"]), max(data["items"])
    guide = [{"items": n, "seconds": n / high * most * 1.6} for n in (low, high)]

    def build() -> Any:
        import altair as alt

        order = [s for s in shown if s in last]
        log: dict[str, Any] = {"type": "log", "nice": False}
        x = alt.X(
            "items:Q",
            title="Items",
            scale=alt.Scale(domain=[low / 1.3, high * 1.3], **log),
            axis=alt.Axis(values=list(data["items"]), format="~s"),
        )
        bounds = [first / 1.6, most * 2.2]
        powers = range(math.ceil(math.log10(bounds[0])), math.floor(math.log10(bounds[1])) + 1)
        y = alt.Y(
            "seconds:Q",
            title="Seconds of the processor",
            scale=alt.Scale(domain=bounds, **log),
            axis=alt.Axis(values=[10.0**e for e in powers], format="~g"),
        )
        colour = alt.Color("stage:N", scale=alt.Scale(domain=order, range=list(HUES)), legend=None)
        across = math.log(bounds[1] / bounds[0])
        wanted = [HEIGHT * math.log(bounds[1] / last[s]["seconds"]) / across for s in order]
        names = [
            last[s] | {"seconds": bounds[1] * math.exp(-across * at / HEIGHT)}
            for s, at in zip(order, spread(wanted, 13, HEIGHT), strict=True)
        ]
        return alt.layer(
            chart(guide).mark_line(color=MUTED, strokeDash=list(DASHES[1]), strokeWidth=1).encode(x=x, y=y),
            chart(rows).mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour),
            chart(rows).mark_point(filled=True, size=40, opacity=1).encode(x=x, y=y, color=colour),
            chart(names)
            .mark_text(align="left", dx=7, baseline="middle", color=INK)
            .encode(x=x, y=y, text="stage:N"),
        ).properties(width=360, height=HEIGHT)

    caption = (
        "Seconds of the processor by the number of items, 32 dimensions, 4 x 256 codes. Dashed: in "
        "proportion to the items. fit sees 262,144 rows at most; fit all sees all of them in 10 iterations."
    )
    return Figure("scale", "What a catalogue costs by its size", caption, rows, build)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", default="100000,1000000,10000000")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", type=Path, help="Where 5 GB are free for a while; a temporary one else.")
    parser.add_argument("--to", type=Path, default=ROOT / "results" / "published")
    parser.add_argument("--keep", action="store_true", help="Beside what was measured before.")
    parser.add_argument("--full", action="store_true", help="Every stage at every size: an hour or more.")
    parser.add_argument(
        "--draw", action="store_true", help="Only the picture and the table, of what is there."
    )
    given = parser.parse_args()
    path = given.to / "scale.json"
    if not given.draw:
        cores = provenance.available_cores()
        for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[pool] = str(cores)  # the children's
        sizes = sorted(int(n) for n in given.items.split(","))
        with tempfile.TemporaryDirectory(dir=given.folder) as own:
            found = measure(sizes, Path(own), given.stages.split(","), given.full)
        if given.keep:
            new = {(p["stage"], p["items"]) for p in found}
            old = json.loads(path.read_text())["measured"]
            found = [p for p in old if (p["stage"], p["items"]) not in new] + found
            sizes = sorted({p["items"] for p in found})
        data = {
            "dimensions": DIMENSIONS,
            "levels": LEVELS,
            "codes": CODES,
            "items": sizes,
            "machine": provenance.hardware("cpu", cores),
            "versions": provenance.versions(),
            "measured": found,
            "grows": slopes(found),
        }
        path.write_text(json.dumps(data, indent=2) + "\n")
    data = json.loads(path.read_text())
    path.with_suffix(".svg").write_text(picture(data).file)
    before, mark, rest = PAGE.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- /measured -->")
    if given.to == ROOT / "results" / "published" and mark and end:
        PAGE.write_text(f"{before}{mark}{table(data)}\n{end}{after}")
    print(table(data))


if __name__ == "__main__":
    main()
