"""sidbench embed: vectors of items from their text, files and sequences, with every step recorded."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from sidbench import progress
from sidbench.catalogue.files import locked
from sidbench.commands.watch import watching
from sidbench.embed import job, model, sources
from sidbench.errors import UsageError

#: Seconds between two lines of progress where no terminal shows a bar.
QUIET = 30.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What was typed."""

    items: Path
    out: Path | None = None
    columns: str | None = None
    template: str | None = None
    model: str = "tfidf"
    dim: int | None = None
    source: tuple[str, ...] = ()
    weights: str | None = None
    pca: int | None = None
    whiten: str | None = None
    eps: float = 1e-3
    normalize: bool = True
    dtype: str = "float32"
    batch_size: int = 64
    max_length: int | None = None
    prompt: str = ""
    device: str = "auto"
    processes: int = 0
    seed: int = 0
    like: Path | None = None
    redo: bool = False


def embed(o: Options, *, as_json: bool = False) -> int:
    """Make the vectors, say what was made."""
    items, out = places(o)
    like = None if o.like is None else (o.like if o.like.is_dir() else job.Place(o.like).folder)
    recipe = fresh_recipe(o) if like is None else recipe_like(o, job.read_manifest(like / "manifest.json"))
    place = job.Place(out)
    if like is not None and like.resolve() == place.folder.resolve():
        raise UsageError(f"--like {o.like}: that is where these vectors would go; name another --out")
    with shown(as_json), locked(place.folder / "lock", str(out)):
        result = job.embed(items, recipe, place, like=like, redo=o.redo)
    if as_json:
        sys.stdout.write(json.dumps({"fresh": result.fresh, "file": str(out), **result.manifest}) + "\n")
    else:
        say(result, items, Console(highlight=False, soft_wrap=True))
    return 0


def places(o: Options) -> tuple[Path, Path]:
    """The items' file, and where the vectors go: beside it, where `sidbench run --dataset` looks."""
    items = o.items.expanduser()
    if items.is_dir() and (items / "items.parquet").is_file():
        items = items / "items.parquet"
    if not items.exists():
        raise UsageError(f"there is no file {items}; give the items' table, or a folder with items.parquet")
    if o.out is not None:
        return items, o.out.expanduser()
    name = items.name.removesuffix(".gz")
    return items, items.with_name(f"{name.rpartition('.')[0] or name}.npy")


def fresh_recipe(o: Options) -> job.Recipe:
    """What the options ask for."""
    item, names = columns(o.columns)
    if names and o.template is not None:
        raise UsageError("give --columns or --template, not both")
    text: dict[str, Any] = {
        "names": names,
        "template": o.template or "",
        "dim": o.dim,
        "seed": o.seed,
        "machines": model.Machines(o.device, o.processes),
    }
    specs = o.source or ("text",)
    if o.model != "tfidf" and any(s.partition(":")[0] == "text" for s in specs):
        text["encoder"] = encoder(o, o.model)
    made = tuple(sources.parse(s, **text) for s in specs)
    if o.source and (names or o.template) and not any(s == "text" for s in specs):
        raise UsageError("--columns and --template go with --source text; here no such source stands")
    kind, dim = axes(o)
    if len(made) == 1 and o.weights is not None:
        raise UsageError("--weights goes with several --source; of one there is nothing to weigh")
    return job.Recipe(
        made, weights(o.weights, len(made)), kind, dim, o.eps, o.normalize, dtype(o.dtype), item
    )


def columns(text: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The column of ids, where `item=COLUMN` names it, and the columns of text."""
    parts = [c.strip() for c in (text or "").split(",") if c.strip()]
    item = None
    for part in (p for p in parts if "=" in p):
        role, _, name = (p.strip() for p in part.partition("="))
        if role != "item" or not name:
            raise UsageError(
                f"--columns {part!r}: here item=COLUMN alone names a column by its role, the others are "
                "columns of text; those of another file are named behind it: --source "
                "sequences:FILE:user=COLUMN,item=COLUMN"
            )
        item = name
    return item, tuple(p for p in parts if "=" not in p)


def recipe_like(o: Options, manifest: dict[str, Any]) -> job.Recipe:
    """The steps of an earlier result; files of the new items, and a model's folder, are named anew."""
    about, steps = manifest["made_from"]["sources"], manifest["made_from"]
    if columns(o.columns)[1] or o.template is not None:
        raise UsageError("--like takes the columns of text as they were; leave --columns and --template out")
    given = iter(o.source)
    if o.source and [s.partition(":")[0] for s in o.source] != [a["kind"] for a in about]:
        raise UsageError(
            f"--like: these vectors came from {', '.join(a['kind'] for a in about)}; give --source of these "
            "kinds in this order, or none"
        )
    made: list[sources.Source] = []
    for a in about:
        spec = next(given, None)
        if a["kind"] == "vectors":
            if spec is None:
                raise UsageError(
                    f"--like: {a['file']} is of the old items; give every --source anew, this one as "
                    "--source vectors:FILE with the new items' rows"
                )
            made.append(sources.parse(spec))
        elif a["kind"] == "sequences":
            made.append(sources.Sequences(None, dim=a["dim"], seed=a["seed"]))
        else:
            text: dict[str, Any] = {"dim": a["dim"], "machines": model.Machines(o.device, o.processes)}
            text |= {"template": a["template"]} if a["template"] else {"names": tuple(a["columns"])}
            if "model" in a:
                name = a["model"] if o.model == "tfidf" else o.model
                again = {"batch_size": a["batch"], "max_length": a["max_length"], "prompt": a["prompt"]}
                text["encoder"] = encoder(dataclasses.replace(o, **again), name)
                if text["encoder"].facts()["model_files"] != a["model_files"]:
                    raise UsageError(f"--like: the files of {name} are not those of {a['model']} then")
            made.append(sources.Text(**text))
    return job.Recipe(
        tuple(made),
        tuple(steps["weights"]),
        steps["axes"],
        steps["axes_dim"],
        steps["eps"] or o.eps,
        steps["normalize"] != "none",
        dtype(steps["dtype"]),
        columns(o.columns)[0],
    )


def encoder(o: Options, name: str) -> model.Encoder:
    """The language model that is asked for."""
    return model.find(name, batch=o.batch_size, max_length=o.max_length, prompt=o.prompt)


def axes(o: Options) -> tuple[job.Kind | None, int | None]:
    """What --pca and --whiten ask for."""
    if o.pca is not None and o.whiten is not None:
        raise UsageError("give --pca (axes as they are) or --whiten (axes made equally long), not both")
    if o.pca is not None:
        return "pca", o.pca
    if o.whiten is None:
        return None, None
    if o.whiten == "zca":
        return "zca", None
    if not o.whiten.isdecimal() or int(o.whiten) < 1:
        raise UsageError(f"--whiten {o.whiten!r}: expected a number of dimensions such as 128, or zca")
    return "whiten", int(o.whiten)


def weights(text: str | None, count: int) -> tuple[float, ...]:
    """A share for every source; equal ones where nothing is said."""
    if text is None:
        return (1.0,) * count
    try:
        found = tuple(float(w) for w in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r}: expected numbers with commas between, such as 1,0.5") from None
    if len(found) != count or not all(0 < w < float("inf") for w in found):
        raise UsageError(f"--weights {text!r}: expected {count} numbers above 0, one for every --source")
    return found


def dtype(name: str) -> Literal["float32", "float16"]:
    """The numbers of the output."""
    if name == "float16":
        return "float16"
    if name != "float32":
        raise UsageError(f"--dtype {name!r}: expected float32 or float16")
    return "float32"


def say(result: job.Result, items: Path, console: Console) -> None:
    """What was made, of what, and what to type next."""
    m, out = result.manifest, result.place.out
    about = m["output"]
    state = "is there already, of these items and these steps" if result.fresh else "written"
    console.print(Text(f"{out}: {about['rows']:,} items x {about['dim']} {about['dtype']}, {state}"))
    for i, (a, f) in enumerate(zip(m["made_from"]["sources"], m["found"], strict=True)):
        what = a.get("file") or a.get("template") or ", ".join(a.get("columns", ()))
        how = a.get("model") or f.get("method") or f"joined by {f.get('joined_by', 'id')}"
        weight = f", weight {m['made_from']['weights'][i]:g}" if len(m["found"]) > 1 else ""
        console.print(Text(f"  {a['kind']}: {what} ({how}, {f['dim']} dimensions{weight})"))
    if m["axes"] is not None and "kind" in m["axes"]:
        kept = m["axes"]["variance_kept"]
        console.print(
            Text(f"  {m['axes']['kind']}: {m['axes']['dim']} dimensions with {kept:.1%} of the variance")
        )
    for note in m["notes"]:
        console.print(Text(f"  note: {note}"))
    console.print(Text(f"  every step: {result.place.manifest}"))
    beside = items.parent / "sequences.parquet"
    if out.name == "items.npy" and out.parent == items.parent and beside.is_file():
        console.print(Text(f"  next: sidbench run --dataset {items.parent}"))


@contextmanager
def shown(quiet: bool) -> Iterator[None]:
    """A bar with items a second and the time left; where no terminal shows it, a line now and then."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:
        with watching(console):
            yield
    else:
        with progress.listening(_Lines(console).report):
            yield


class _Lines:
    """A line as a stage begins and every half minute."""

    def __init__(self, console: Console) -> None:
        self.console, self.stage, self.rate, self.said = console, "", progress.Rate(), 0.0

    def report(self, stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.rate, self.said = stage, progress.Rate(over=60.0), now
            self.console.print(Text(f"… {stage}"))
        self.rate.add(done)
        if now - self.said >= QUIET and done < total:
            self.said = now
            self.console.print(Text(f"… {stage}: {rate_said(self.rate, done, total)}"))


def rate_said(rate: progress.Rate, done: float, total: float) -> str:
    """How many of how many, how fast, and how long still."""
    text = f"{done:,.0f} of {total:,.0f}"
    if (speed := rate.a_second) is not None and speed > 0:
        minutes, seconds = divmod(int((total - done) / speed), 60)
        text += f", {speed:,.0f} a second, {minutes}:{seconds:02d} left"
    return text
