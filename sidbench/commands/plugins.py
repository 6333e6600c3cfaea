"""sidbench list, check and new: plugins seen from outside."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidbench import registry, testing
from sidbench.dataset import Dataset
from sidbench.decoder import Decoder
from sidbench.errors import UsageError, unknown
from sidbench.folder import find_folder
from sidbench.metrics import METRICS
from sidbench.plugin import Plugin, configure, parameter_docs
from sidbench.protocol import PROTOCOLS
from sidbench.settings import parse_set

TEMPLATES = {"tokenizer": "my-method"}
#: Characters of a name in a list.
NAMES = 24
KINDS = {
    "methods": "tokenizer",
    "datasets": "dataset",
    "resolvers": "resolver",
    "references": "reference",
    "loggers": "logger",
    "formats": "format",
}


def list_(kind: str | None, *, as_json: bool) -> int:
    """Everything there is, or one kind of it; what cannot be used is listed with its reason."""
    if kind is not None and kind not in (*KINDS, *BUILT_IN):
        raise unknown("kind", kind, [*KINDS, *BUILT_IN])
    wanted = (*KINDS, *BUILT_IN) if kind is None else (kind,)
    chosen = {title: _plugins(KINDS[title]) if title in KINDS else BUILT_IN[title]() for title in wanted}
    broken = [dataclasses.asdict(b) for b in registry.scan().broken]
    if as_json:
        for b in broken:
            b.pop("detail")
        _write(json.dumps({**chosen, "broken": broken}, indent=2))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for title, entries in chosen.items():
        console.print(f"[bold]{title}[/bold]")
        room = max([NAMES, *(len(entry["name"]) for entry in entries)])
        for entry in entries:
            _print_entry(console, entry, room, detailed=kind is not None)
    for b in broken:
        console.print(f"[red]✗ {escape(b['name'])}[/red] from {escape(b['origin'])}: {escape(b['reason'])}")
    if kind is None:
        console.print(
            "[dim]`sidbench list KIND` prints parameters and legends too; "
            "`sidbench list --params NAME` explains one plugin's.[/dim]"
        )
    return 0


def params(name: str, *, as_json: bool) -> int:
    """Every parameter of one plugin in a line: default, what it does, what it takes.

    A dataset and a format may have one name, that of the system whose files they are: then both are told.
    """
    named = _named(name)
    told = []
    for cls, defaults in named:
        entries = [{**p, "default": defaults.get(p["name"], p["default"])} for p in _parameters(cls)]
        if as_json:
            told.append({"name": name, "kind": cls.kind, "summary": cls.summary(), "parameters": entries})
        else:
            _print_params(name, cls, entries)
    if as_json:
        _write(json.dumps(told[0] if len(told) == 1 else told, indent=2))
    return 0


def _print_params(name: str, cls: type[Plugin], entries: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    console.print(f"[bold cyan]{escape(name)}[/bold cyan]  {escape(cls.summary())}")
    if paper := getattr(cls, "paper", ""):
        console.print(f"[dim]{escape(paper)}[/dim]", soft_wrap=True)
    owners = {c.__name__: c for c in cls.__mro__}
    shared = [o for o in dict.fromkeys(p["of"] for p in entries) if o != cls.__name__]
    # A method's own choices first, then what it shares with others.
    for owner in [cls.__name__, *reversed(shared)]:
        rows = [p for p in entries if p["of"] == owner]
        if not rows:
            continue
        title = f"{name}'s own" if owner == cls.__name__ else getattr(owners[owner], "group", "") or owner
        table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        for heading, ratio in (("parameter", None), ("default", None), ("what it does", 1)):
            table.add_column(heading, style="cyan" if heading == "parameter" else "", ratio=ratio)
        for p in rows:
            default = "(required)" if p["required"] else p["default"]
            said = escape(p["summary"]) + (f" [dim]{escape(p['takes'])}[/dim]" if p["takes"] else "")
            table.add_row(escape(p["name"]), escape(str(default)), said)
        console.print()
        console.print(table)
    example = next((p for p in entries if p["of"] == cls.__name__ and not p["required"]), None)
    if example is not None:
        line = f"{example['name']}={_toml(example)}"
        ways = {
            "format": f"export … --to {name} --set {line}",
            "dataset": f"run --dataset {name} --set dataset.{line}",
        }
        how = ways.get(cls.kind, f"run --set {name}.{line}")
        console.print(f"\n[dim]sidbench {escape(how)}[/dim]")


def _named(name: str) -> list[tuple[type[Plugin], dict[str, Any]]]:
    """The classes of a name of any kind, or the decoder with a preset's values."""
    if name == "decoder":
        return [(Decoder, {})]
    if name in Decoder.presets:
        return [(Decoder, Decoder.presets[name])]
    if name in PROTOCOLS:
        return [(PROTOCOLS[name], {})]
    by_kind = [registry.plugins(kind) for kind in KINDS.values()]
    found: list[tuple[type[Plugin], dict[str, Any]]] = [(k[name], {}) for k in by_kind if name in k]
    if not found:
        everything = {n for known in by_kind for n in known}
        raise unknown("plugin", name, {*everything, "decoder", *Decoder.presets, *PROTOCOLS})
    return found


def _toml(entry: dict[str, Any]) -> str:
    """A default as `--set` takes it."""
    value = entry["default"]
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def _plugins(kind: str) -> list[dict[str, Any]]:
    scan = registry.scan()
    out = []
    for name, cls in registry.plugins(kind).items():
        entry: dict[str, Any] = {"name": name, "summary": cls.summary(), "from": scan.origins[cls]}
        if getattr(cls, "paper", ""):
            entry["paper"] = cls.paper
        if issubclass(cls, Dataset):
            entry["verified"] = cls.verified
        entry["parameters"] = _parameters(cls)
        out.append(entry)
    return out


def _decoders() -> list[dict[str, Any]]:
    return [
        {
            "name": preset,
            "summary": _size(values),
            "parameters": [
                {**p, "default": values.get(p["name"], p["default"])} for p in _parameters(Decoder)
            ],
        }
        for preset, values in Decoder.presets.items()
    ]


def _protocols() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "summary": cls.summary(),
            "legend": " ".join((cls.__doc__ or "").partition("\n")[2].split()),
            "parameters": _parameters(cls),
        }
        for name, cls in PROTOCOLS.items()
    ]


def _metrics() -> list[dict[str, Any]]:
    return [
        {"name": m.name, "summary": m.label, "source": m.source, "direction": m.direction, "legend": m.legend}
        for m in METRICS.values()
    ]


#: Kinds that are no plugins.
BUILT_IN = {"decoders": _decoders, "protocols": _protocols, "metrics": _metrics}


def _size(preset: dict[str, Any]) -> str:
    """What a preset of the decoder makes of it."""
    d = Decoder(**preset)
    return (
        f"{d.architecture}, {d.encoder_layers + d.decoder_layers} layers of width {d.width}, the last "
        f"{d.history} items, at most {d.steps:,} steps of {d.batch} sequences, beam {d.beam}"
    )


def _parameters(cls: type[Plugin]) -> list[dict[str, Any]]:
    hints, full = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    said = parameter_docs(cls)
    return [
        {
            "name": f.name,
            "type": _type_name(hints[f.name]),
            "takes": _takes(full[f.name]),
            "default": _plain(f.default),
            "required": f.default is f.default_factory is dataclasses.MISSING,
            "summary": said[f.name][1],
            "of": said[f.name][0],
        }
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else re.sub(r"typing\.|pathlib\.", "", str(hint))


def _takes(hint: Any) -> str:
    """What a parameter takes, for people: choices and bounds."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = {
            key: getattr(bound, key)
            for extra in inner[1:]
            for bound in getattr(extra, "metadata", [extra])
            for key in ("ge", "gt", "le", "lt")
            if getattr(bound, key, None) is not None
        }
        return f"{_takes(inner[0])} {_between(bounds)}".strip()
    if origin is Literal:
        return " | ".join(str(v) for v in inner)
    if origin in (Union, UnionType):
        kinds = list(dict.fromkeys(_takes(i) for i in inner if get_origin(i) is not tuple and _takes(i)))
        return " or ".join([*kinds, *(["a list of them"] if kinds and _holds_tuple(inner) else [])])
    if origin is tuple:
        each = re.sub(r"^(integer|number)", r"\1s", _takes(inner[0]))
        return f"list of {each}" if each else "list"
    return {bool: "true | false", int: "integer", float: "number", Path: "file"}.get(hint, "")


def _holds_tuple(hints: tuple[Any, ...]) -> bool:
    return any(get_origin(hint) is tuple for hint in hints)


def _between(bounds: dict[str, Any]) -> str:
    """Bounds in words: `1 to 16`, `> 0`, `>= 0, < 1`."""
    if {"ge", "le"} <= bounds.keys():
        return f"{bounds['ge']} to {bounds['le']}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return ", ".join(f"{signs[key]} {value}" for key, value in bounds.items())


def _plain(value: Any) -> Any:
    return (
        None
        if value is dataclasses.MISSING
        else value
        if isinstance(value, (int, float, str, bool))
        else str(value)
    )


def _print_entry(console: Console, entry: dict[str, Any], room: int, *, detailed: bool) -> None:
    origin = entry.get("from", "sidbench")
    tail = f" [dim]({escape(origin)})[/dim]" if origin != "sidbench" else ""
    if entry.get("verified") is False:
        tail = f" [yellow](verified: no)[/yellow]{tail}"
    arrow = {"higher": " ↑", "lower": " ↓"}.get(entry.get("direction", ""), "")
    _print_beside(
        console,
        f"  [cyan]{escape(entry['name']):<{room}}[/cyan] ",
        f"{escape(entry['summary'])}{arrow}{tail}",
    )
    if not detailed:
        return
    if "legend" in entry:
        console.print(f"      [dim]{escape(entry['legend'])}[/dim]")
    if "paper" in entry:
        console.print(f"      [dim]{escape(entry['paper'])}[/dim]")
    for p in entry.get("parameters", []):
        default = "required" if p["required"] else p["default"]
        takes = escape(p["takes"] or p["type"])
        console.print(f"      {p['name']:<18} {escape(str(default)):<12} [dim]{takes}[/dim]")


def _print_beside(console: Console, name: str, said: str) -> None:
    """A name and what is said of it, broken in its own column on a terminal; in a pipe it is one line."""
    if not console.is_terminal:
        console.print(name + said)
        return
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(name, said)
    console.print(grid)


def check(name: str, sets: list[str], *, as_json: bool) -> int:
    """Every conformance check of one plugin, or of all; 1 when one fails."""
    values = dict(_own_value(name, text) for text in sets)
    chosen = {label: _subject(label, values) for label in (_checkable() if name == "all" else [name])}
    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    report = []
    for label, (plugin, params) in chosen.items():
        console.print(f"[bold]{escape(label)}[/bold]")
        for result in testing.run_checks(plugin, **params):
            report.append(
                {"plugin": label, "check": result.name, "passed": result.passed, "message": result.message}
            )
            mark = "[green]✓[/green]" if result.passed else "[red]✗[/red]"
            console.print(f"  {mark} {result.name}")
            if not result.passed:
                console.print(f"    [red]{escape(result.message)}[/red]")
    failed = [r for r in report if not r["passed"]]
    if as_json:
        _write(json.dumps(report, indent=2))
    else:
        console.print(f"{len(report) - len(failed)} of {len(report)} checks passed")
    return 1 if failed else 0


def _own_value(name: str, text: str) -> tuple[str, Any]:
    """`levels=2`, or `rq-kmeans.levels=2` as `sidbench run` has it."""
    before = text.partition("=")[0]
    target, key, value = parse_set(text if "." in before else f"{name}.{text}")
    if target not in (name, name.partition(":")[0]):
        raise UsageError(f"--set {text}: {target!r} is not what is checked here ({name})")
    return key, value


def _checkable() -> list[str]:
    """Every plugin that has checks and needs no file (a dataset that can read one also fetches it)."""
    own = [
        name
        for name, cls in registry.datasets().items()
        if not any("Path" in p["type"] for p in _parameters(cls))
    ]
    return [*registry.tokenizers(), *registry.resolvers(), *own]


def _subject(label: str, values: dict[str, Any]) -> tuple[type[Plugin] | Plugin, dict[str, Any]]:
    """What the kit is given: a tokenizer's class and parameters, or an instance of anything else."""
    tokenizers, resolvers = registry.tokenizers(), registry.resolvers()
    if label in tokenizers:
        cls = tokenizers[label]
        configure(cls, {**cls.quick, **values})  # a wrong name or value is one message, not one a check
        return cls, values
    if label in resolvers:
        return configure(resolvers[label], values), {}
    if label in registry.references():
        raise UsageError(f"{label!r} is a reference; there are checks for tokenizers, resolvers and datasets")
    if label.partition(":")[0] in registry.datasets() or find_folder(label):
        return registry.make_dataset(label, values), {}
    for broken in registry.scan().broken:
        if broken.name in (label, label.replace("-", "_")):
            raise UsageError(f"{label!r} from {broken.origin} cannot be used: {broken.reason}")
    raise unknown("plugin", label, [*_checkable(), "all"])


def new(kind: str, name: str, folder: Path | None) -> int:
    """Write a template under a new name."""
    if kind not in TEMPLATES:
        raise unknown("kind", kind, TEMPLATES)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} is no plugin name; expected small letters, digits and dashes, such as my-method"
        )
    if name in registry.plugins(kind):
        raise UsageError(f"there is a {kind} {name!r} already; choose another name")
    own = Path(__file__).resolve().parent.parent.parent
    checkout = (own / "pyproject.toml").is_file() and (own / "plugins").is_dir()
    target = folder or (own / "plugins" if checkout else Path())
    path = target / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise UsageError(f"{path} exists; choose another name or remove it")
    example = TEMPLATES[kind]
    text = (files("sidbench.templates") / f"{kind}.py").read_text(encoding="utf-8")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    text = text.replace(example, name).replace(
        "".join(p.capitalize() for p in example.split("-")), class_name
    )
    try:
        target.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise UsageError(
            f"{path} cannot be written ({e.strerror}); name another folder with --folder"
        ) from None
    _write(f"wrote {path}")
    if not checkout or folder is not None:
        _write(f"export SIDBENCH_PLUGIN_PATH={target.absolute()}")
    _write(f"sidbench check {name}\nsidbench run --methods {name},rq-kmeans,random")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
