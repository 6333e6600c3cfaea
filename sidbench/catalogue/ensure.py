"""Ensure that SIDs are there: fitted and written where they are missing or stale, else left alone at once.

A look at sizes and times of files answers where nothing changed; nothing heavy is imported for that.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidbench import __version__, provenance
from sidbench.errors import DataError, UsageError

SCHEMA = 1
#: Says what was put in place last, in the folder of work.
LEFT = "left.json"
#: What a manifest must hold to say that SIDs are fresh.
KEYS = {"schema", "sidbench", "items", "asked", "identity", "sha256", "modules", "stamps"}


@dataclass(frozen=True)
class Wanted:
    """What a person asks for, as it was written; `params` are those of the method."""

    embeddings: str
    method: str = "rq-kmeans"
    params: dict[str, Any] = field(default_factory=dict)
    to: str | None = None
    sample: int | None = None
    resolver: str | None = None
    resolver_params: dict[str, Any] = field(default_factory=dict)
    column: str | None = None
    id_column: str | None = None
    dim: int | None = None
    dtype: str | None = None
    ids: str | None = None

    def asked(self) -> dict[str, Any]:
        """The same for a manifest: of a file only its name."""
        held = dict(vars(self))
        for key in ("embeddings", "ids"):
            held[key] = None if held[key] is None else Path(held[key]).name
        return dict(json.loads(json.dumps(held, default=str)))


@dataclass(frozen=True)
class Ensured:
    """The SIDs are at `path`; `why` says what made them be written now, empty where they were fresh."""

    path: Path
    why: str = ""
    items: int = 0

    @property
    def written(self) -> bool:
        return bool(self.why)


def ensure(
    out: Path | str,
    *,
    embeddings: Path | str,
    method: str = "rq-kmeans",
    device: str = "auto",
    redo: bool = False,
    **asked: Any,
) -> Ensured:
    """See that the SIDs of these vectors are at `out`, in the format that its name or `to` says.

    `params={"levels": 4}` are the method's; `sample`, `resolver`, `column`, `id_column`, `dim`, `dtype` and
    `ids` are those of `sidbench fit` and `encode`. An error leaves what was there, and so does a file that
    ensure did not make, unless `redo` tells it to make the SIDs anew, whatever is there.
    """
    out = Path(out)
    try:
        wanted = Wanted(str(embeddings), method, **asked)
    except TypeError:
        known = ", ".join(Wanted.__dataclass_fields__)
        raise UsageError(f"ensure takes {known}; not {', '.join(asked)}") from None
    held = _manifest(out)
    why = "asked for" if redo else _stale(out, wanted, held)
    if not why:
        return Ensured(out, items=int(held["items"]))
    return _write(out, wanted, why, device, redo)


def beside(out: Path) -> Path:
    """Where the manifest of these SIDs lies."""
    return out.with_name(f"{out.name}.manifest.json")


def _manifest(out: Path) -> dict[str, Any]:
    """What is known of the SIDs that are there; empty where that is nothing."""
    try:
        held = json.loads(beside(out).read_text())
    except (OSError, ValueError):  # absent or torn: then the SIDs are made again
        return {}
    whole = isinstance(held, dict) and held.get("kind") == "ensure" and held.keys() >= KEYS
    return held if whole and held["stamps"].keys() == {"input", "out", "code"} else {}


def _stale(out: Path, wanted: Wanted, held: dict[str, Any]) -> str:
    """Why the SIDs must be made, as far as sizes and times tell; empty where nothing changed."""
    if not out.exists():
        return f"{out.name} is missing"
    if not held:
        return f"nothing says what {out.name} was made from"
    if held["schema"] != SCHEMA or held["sidbench"] != __version__:
        return "it was made by another version of sidbench"
    if held["asked"] != wanted.asked():
        keys = [k for k, v in wanted.asked().items() if held["asked"].get(k) != v]
        return f"asked for something else: {', '.join(keys)}"
    if held["stamps"]["input"] != _stamps(wanted):
        return "the embeddings changed, or another file that it was made from"
    if gone := [name for name in held.get("files", {}) if not out.with_name(name).is_file()]:
        return f"{gone[0]} is missing"
    if held["stamps"]["out"] != _out_stamps(out, held):
        return f"{out.name} changed"
    if held["stamps"]["code"] != provenance.code_stamp(held["modules"]):
        return "the code changed"
    return ""


def _stamps(wanted: Wanted) -> list[Any]:
    """Names, sizes and times of change of the files that vectors and ids lie in, and that parameters name."""
    path = Path(wanted.embeddings)
    if not path.exists():
        raise UsageError(f"there is no file {path}: embeddings for the SIDs must be there, fresh or not")
    named = [path, *([] if wanted.ids is None else [Path(wanted.ids)])]
    if not named[-1].exists():
        raise UsageError(f"there is no file of ids {named[-1]}; check the path")
    # Whatever a parameter's text may mean: where there is such a file, it is looked at.
    texts = [v for v in (*wanted.params.values(), *wanted.resolver_params.values()) if _names_a_file(v)]
    return [_stamp(f) for p in [*named, *map(Path, texts)] for f in _files(p)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.iterdir() if f.is_file() and f.name[0] not in "._")


def _names_a_file(value: Any) -> bool:
    try:
        return isinstance(value, (str, Path)) and str(value) != "" and Path(value).exists()
    except OSError:  # too long for a name
        return False


def _out_stamps(out: Path, held: dict[str, Any]) -> list[Any]:
    return [_stamp(p) for p in (out, *(out.with_name(name) for name in held.get("files", {})))]


def _stamp(path: Path) -> list[Any]:
    try:
        about = path.stat()
    except OSError as e:
        raise DataError(f"{path} is not there ({e.strerror})") from None
    # The second time tells where a tool set back the first, as tar and touch do.
    return [path.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _write(out: Path, wanted: Wanted, why: str, device: str, redo: bool) -> Ensured:
    """Fit, encode and write beside the SIDs; only what is whole takes their place."""
    from sidbench.catalogue import making
    from sidbench.catalogue.files import Digest, locked, refused, write_json

    made = making.Making.of(out, wanted, device)
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name the file of SIDs, such as {out / 'sids.parquet'}")
    identity = made.identity()
    digest = Digest.of_json(identity)[:12]
    with locked(out.with_name(f".{out.name}.ensure") / "lock", str(out)):
        work = out.with_name(f".{out.name}.ensure") / digest
        held = _manifest(out)  # another process may have been done in between
        if not redo and held.get("identity") == identity and _intact(out, held):
            write_json(
                beside(out),
                {**held, "asked": wanted.asked(), "stamps": _all_stamps(out, wanted, held)},
            )
            return Ensured(out, items=int(held["items"]))
        changed = not redo and _changed(out, held, work.parent)
        for old in work.parent.iterdir():
            if old.is_dir() and (old != work or redo):
                shutil.rmtree(old)  # what other embeddings or parameters left half done
        stamps = _stamps(wanted)
        about = made.write(work)
        if _stamps(wanted) != stamps:
            raise DataError(f"{wanted.embeddings} was changed while it was read; run the same command again")
        write_json(work / LEFT, {"sha256": about["sha256"]})  # whose the file is until its manifest says so
        try:
            for path in [*([out] if changed else []), *([] if redo else _others(out, about, held))]:
                why += f"; what was there is kept as {_kept(path).name}"
            made.settle(work, out)
        except OSError as e:
            raise refused(out, e) from None
        about["modules"] = provenance.modules_behind(made.modules)
        write_json(
            beside(out),
            {
                "kind": "ensure",
                "schema": SCHEMA,
                "sidbench": __version__,
                **about,
                "identity": identity,
                "asked": wanted.asked(),
                "stamps": _all_stamps(out, wanted, about),
            },
        )
        shutil.rmtree(work)
    return Ensured(out, why, int(about["items"]))


def _all_stamps(out: Path, wanted: Wanted, held: dict[str, Any]) -> dict[str, Any]:
    code = provenance.code_stamp(held["modules"])
    return {"input": _stamps(wanted), "out": _out_stamps(out, held), "code": code}


def _intact(out: Path, held: dict[str, Any]) -> bool:
    """Whether the file, and what lies beside it, are what the manifest says, whatever their times."""
    from sidbench.catalogue.files import sha256

    wanted = {out.name: held["sha256"], **held.get("files", {})}
    return all(
        out.with_name(name).is_file() and sha256(out.with_name(name)) == digest
        for name, digest in wanted.items()
    )


def _changed(out: Path, held: dict[str, Any], home: Path) -> bool:
    """Whether the file is no more what ensure left; one that it never left is refused: it is somebody's."""
    from sidbench.catalogue.files import read_json, sha256

    if not out.exists():
        return False
    left = [read_json(f) or {} for f in home.glob(f"*/{LEFT}")]  # of a process that ended just after it
    if sha256(out) in {str(about.get("sha256")) for about in (held, *left)}:
        return False
    if not held:
        raise UsageError(
            f"{out} is there, and nothing beside it says that ensure made it. Name another file, move it "
            "away, or have it replaced: --redo (in Python redo=True)"
        )
    return True


def _others(out: Path, about: dict[str, Any], held: dict[str, Any]) -> list[Path]:
    """Files that would be replaced beside the SIDs, and are not as ensure left them."""
    from sidbench.catalogue.files import sha256

    before = held.get("files", {})
    beside = {
        out.with_name(name): (digest, before.get(name)) for name, digest in about.get("files", {}).items()
    }
    return [path for path, ours in beside.items() if path.is_file() and sha256(path) not in ours]


def _kept(out: Path) -> Path:
    """A copy of the file under a name that nobody has."""
    names = (out.with_name(f"{out.name}.changed{n or ''}") for n in itertools.count())
    place = next(p for p in names if not p.exists())
    shutil.copy2(out, place)
    return place
