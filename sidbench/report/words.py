"""Words: what the rows of a table have in common, as people say it."""

from __future__ import annotations

import json
import math
from typing import Any

from sidbench.report.board import Table


def dataset(table: Table) -> str:
    d = table.records[0].key["dataset"]
    return (
        f"{code(d['name'])}, {d['items']:,} items with embeddings of {d['dimensions']:,} dimensions, "
        f"{d['users']:,} users, {d['interactions']:,} interactions (fingerprint `{d['fingerprint']}`)"
    )


def protocol(table: Table) -> str:
    p = table.agreed["protocol"]
    seen = {"keep": "seen items stay in the lists", "mask": "seen items are left out"}
    rest = [f"{k} {plain(v)}" for k, v in p.items() if k not in ("name", "seen")]
    return ", ".join([code(p["name"]), seen.get(p["seen"], f"seen items: {p['seen']}"), *rest])


def shape(table: Table) -> str:
    """The codes of one item: `3 × 256`, or every size where they differ."""
    sizes = table.agreed.get("shape")
    if sizes is None:
        return "no SIDs" if "resolver" not in table.agreed else "shape unknown"
    return f"{len(sizes)} × {sizes[0]}" if len(set(sizes)) == 1 else " · ".join(map(str, sizes))


def bits(table: Table) -> float:
    return sum(math.log2(size) for size in table.agreed["shape"])


def resolver(table: Table) -> str:
    r = table.agreed.get("resolver")
    return _named(r["name"], r["params"]) if r else "none"


def decoder(table: Table) -> str:
    d = table.agreed.get("decoder")
    if not d:
        return "none"
    return f"{_named(d['name'], d['params'])}, preset {code(d['preset'])}"


def hardware(table: Table) -> str:
    h = table.agreed["hardware"]
    gpu = [str(h["gpu"])] if h.get("gpu") else []
    memory = f"{h['memory_gb']:,.0f} GB of memory"
    return ", ".join(
        [
            *gpu,
            str(h["cpu"]),
            f"{h['cores']} cores",
            f"{h['threads']} threads",
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
        parts += [shape(table), f"{r['name']} resolver" if r else "no resolver"]
        parts.append(f"{d['name']} {d['preset']}" if d else "no decoder")
    return ", ".join(parts)


def parameters(params: dict[str, Any]) -> str:
    """`width 128, layers 4`: nested ones with a dot."""
    flat = {}
    for key, v in params.items():
        flat.update({f"{key}.{k}": w for k, w in v.items()} if isinstance(v, dict) else {key: v})
    return ", ".join(f"{k} {plain(v)}" for k, v in flat.items())


def code(text: str) -> str:
    """Text as it is, in a code span: nothing in it is markup."""
    return f"`{text.replace('`', chr(39))}`"


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(name: str, params: dict[str, Any] | None) -> str:
    return f"{code(name)} with {code(parameters(params))}" if params else code(name)
