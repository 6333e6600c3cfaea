"""Words: what the rows of a table have in common, as people say it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from sidbench.metrics import METRICS
from sidbench.report.table import Table


def facts(table: Table) -> list[tuple[str, str]]:
    """What all rows of a table share, a name and a sentence each; in sentences, `` `x` `` is as it was typed.

    Notes are what plugins said: text of any kind, nothing in it is markup.
    """
    facts = [("Data", dataset(table)), ("Protocol", protocol(table))]
    if said := notes(table):
        facts.append(("Notes", "; ".join(said)))
    if "shape" in table.agreed:
        facts.append(("SIDs", f"{shape(table)} codes, {bits(table):.4g} bits an item{added(table)}"))
    if "resolver" in table.agreed:
        facts += [("Resolver", resolver(table)), ("Decoder", decoder(table))]
    floor = next((r.values for r in table.rows if "floor_items" in r.values), None)
    if floor:
        items, surplus = (METRICS[n].show(floor[n].mean) for n in ("floor_items", "floor_distinct"))
        shared = f"{items} of the items share their embedding with another, {surplus} are surplus"
        facts.append(("Duplicate floor", f"{shared}; what collides beyond that is the tokenizer's doing"))
    facts += [("Seeds", ", ".join(map(str, table.seeds)) or "none ran"), ("Hardware", hardware(table))]
    facts.append(("Versions", versions(table)))
    return facts + [("Made by", code(command)) for command in commands(table)]


def dataset(table: Table) -> str:
    d = table.records[0].key["dataset"]
    return (
        f"{code(d['name'])}, {d['items']:,} items with embeddings of {d['dimensions']:,} dimensions, "
        f"{d['users']:,} users, {d['interactions']:,} interactions (fingerprint `{d['fingerprint']}`)"
        f"{f', loaded with {code(parameters(params))}' if (params := dataset_params(table)) else ''}"
    )


def dataset_params(table: Table) -> dict[str, Any]:
    """The dataset's parameters, where some record says them."""
    return next((p for r in table.records if (p := r.key["dataset"].get("params"))), {})


def protocol(table: Table) -> str:
    p = table.agreed["protocol"]
    knn = any(r.key["method"] == "item-knn" for r in table.records)
    seen = {
        "keep": "seen items stay in the lists"
        + (" (so `item-knn` ranks the last item of the history itself first)" if knn else ""),
        "mask": "seen items are left out (a test item that is already in the history counts as missed)",
    }
    rest = [f"{k} {plain(v)}" for k, v in p.items() if k not in ("name", "seen", "cutoffs", "params")]
    params = parameters(p.get("params", {}))
    name = f"{code(p['name'])} with {code(params)}" if params else code(p["name"])
    said = [name, seen.get(p["seen"], f"seen items: {p['seen']}"), cutoffs(table), *rest]
    evaluated = next((e for r in table.records if (e := r.key["protocol"].get("evaluated"))), None)
    # Where a protocol has parameters a user may have several targets; older records have no such protocol.
    what = "test targets" if params else "users evaluated"
    return ", ".join([*said, *([f"{evaluated:,} {what}"] if evaluated else [])])


def cutoffs(table: Table) -> str:
    return f"cut-offs {', '.join(map(str, table.agreed['protocol']['cutoffs']))}"


def notes(table: Table) -> list[str]:
    """What loading and splitting the data found, as far as the records say."""
    return sorted({str(note) for r in table.records for note in r.facts.get("notes", [])})


def shape(table: Table) -> str:
    """The codes of one item: `3 × 256`, or every size where they differ."""
    sizes = table.agreed.get("shape")
    if sizes is None:
        return "no SIDs" if "resolver" not in table.agreed else "shape unknown"
    return f"{len(sizes)} × {sizes[0]}" if len(set(sizes)) == 1 else " · ".join(map(str, sizes))


def bits(table: Table) -> float:
    return sum(math.log2(size) for size in table.agreed["shape"])


def added(table: Table) -> str:
    """What the resolver makes of that, where it lengthens SIDs."""
    found = [r.values["sid_bits_added"].mean for r in table.rows if "sid_bits_added" in r.values]
    if not any(found):
        return ""
    low, high = min(found), max(found)
    span = f"{high:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    return f"; the resolver's level adds {span}"


def resolver(table: Table) -> str:
    r = table.agreed.get("resolver")
    return _named(r["name"], r["params"]) if r else "none"


def decoder(table: Table) -> str:
    d = table.agreed.get("decoder")
    if not d:
        return "none"
    reads = {"codes": ["histories read as code tokens"], "items": ["histories read as item tokens"]}
    return ", ".join(
        [
            f"{_named(d['name'], d['params'])}, preset {code(d['preset'])}",
            *reads.get(str((d["params"] or {}).get("tokens")), []),
            *([f"searched with a beam of {table.agreed['beam']}"] if "beam" in table.agreed else []),
        ]
    )


def hardware(table: Table) -> str:
    h = table.agreed["hardware"]
    gpu = [str(h["gpu"])] if h.get("gpu") else []
    memory = f"{h['memory_gb']:,.0f} GB of memory"
    return ", ".join(
        [
            *gpu,
            str(h["cpu"]),
            count(h["cores"], "core"),
            count(h["threads"], "thread"),
            memory,
            f"device {h['device']}",
        ]
    )


def versions(table: Table) -> str:
    """Every version met: `torch 2.6.0`, or `torch 2.6.0 and 2.7.0` where rows differ."""
    met: dict[str, set[str]] = {}
    for record in table.records:
        for name, version in record.env.items():
            met.setdefault(name, set()).add(str(version))
    names = sorted(met.keys() - {"command"}, key=lambda name: (name != "sidbench", name))
    return ", ".join(f"{name} {' and '.join(sorted(met[name]))}" for name in names)


def commands(table: Table) -> list[str]:
    return sorted({r.env["command"] for r in table.records if "command" in r.env})


def title(table: Table) -> str:
    """The table in one line: data, protocol, shape, resolver, decoder."""
    parts = [table.agreed["dataset"]["name"], table.agreed["protocol"]["name"]]
    if "resolver" in table.agreed:
        r, d = table.agreed["resolver"], table.agreed["decoder"]
        size = f" ({bits(table):.4g} bits)" if "shape" in table.agreed else ""
        parts += [f"{shape(table)}{size}", f"{r['name']} resolver" if r else "no resolver"]
        parts.append(f"{d['name']} {d['preset']}" if d else "no decoder")
    return ", ".join(parts)


def titles(tables: Sequence[Table]) -> list[str]:
    """A title for each table; alike ones are told apart by what differs, else by a number."""
    alike: dict[str, list[Table]] = {}
    for table in tables:
        alike.setdefault(title(table), []).append(table)
    out: list[str] = []
    met: dict[str, int] = {}
    for table in tables:
        told = [_facets(t) for t in alike[title(table)]]
        mine = _facets(table)
        differ = [mine[k] for k in mine if any(other.get(k) != mine[k] for other in told)]
        said = ", ".join([title(table), *differ])
        met[said] = met.get(said, 0) + 1
        out.append(f"{said} ({met[said]})" if met[said] > 1 else said)
    return out


def _facets(table: Table) -> dict[str, str]:
    """What a title says only where another table has it otherwise."""
    protocol, hardware = table.agreed["protocol"], table.agreed["hardware"]
    out = {"seen": f"seen {protocol['seen']}", "cutoffs": cutoffs(table)}
    parts: dict[str, Any] = {"dataset": {"params": dataset_params(table)}}
    parts |= {part: table.agreed.get(part) or {} for part in ("protocol", "resolver", "decoder")}
    for part, values in parts.items():
        out |= {f"{part}.{k}": f"{k} {plain(v)}" for k, v in (values.get("params") or {}).items()}
    if "beam" in table.agreed:
        out["beam"] = f"beam {table.agreed['beam']}"
    # A beam that is widened for the cut-offs says more than the one asked for.
    if "beam" in out:
        out.pop("decoder.beam", None)
    return out | {"device": f"device {hardware['device']}"}


#: How rows are compared.
COMPARISON = (
    "Paired bootstrap over users, seeds as the outer cluster; p-values corrected for all pairs of rows (Holm)"
)


def alike(table: Table) -> list[str]:
    """What the letters of rows mean; nothing where rows were not compared."""
    if not table.differences:
        return []
    caution = (
        ""
        if max(len(r.seeds) for r in table.rows) > 1
        else ("; with one seed the noise of training is not in it (--seeds 0,1,2)")
    )
    return [f"Rows that share a letter cannot be told apart by {table.headline}, at 5%{caution}."]


def parameters(params: dict[str, Any]) -> str:
    """`width 128, layers 4`: nested ones with a dot."""
    flat = {}
    for key, v in params.items():
        flat.update({f"{key}.{k}": w for k, w in v.items()} if isinstance(v, dict) else {key: v})
    return ", ".join(f"{k} {plain(v)}" for k, v in flat.items())


def code(text: str) -> str:
    """Text as it is, in a code span: nothing in it is markup, and no empty line ends the span."""
    return f"`{' '.join(text.splitlines()).replace('`', chr(39))}`"


def count(n: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(name: str, params: dict[str, Any] | None) -> str:
    return f"{code(name)} with {code(parameters(params))}" if params else code(name)
