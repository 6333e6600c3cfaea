"""Vectors of items from what is known of them: text, sequences, files; a source has a short name."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sidbench.dataset import Sequences, cache_folder, check_embeddings
from sidbench.errors import DataError, UsageError, nearest

Floats = NDArray[np.float32]

KNOWN = ("tfidf", "collaborative")
EXPECTED = (
    "tfidf, collaborative, sentence-transformers/NAME, a folder with such a model, or a file of vectors "
    "(.npy, .parquet, .safetensors; row i for item i)"
)
# Smaller catalogues are done again sooner than they are looked up.
WORTH_KEEPING = 2_000


@dataclass(frozen=True)
class Learned:
    """What a file of vectors knows of interactions, as the manifest beside it tells."""

    #: The protocol from whose training interactions it was learned; empty where it was learned from none.
    under: str = ""
    #: `Sequences.digest` of these interactions, of each source; empty text where the manifest has none.
    digests: tuple[str, ...] = ()


def embed_texts(
    texts: pa.Array | pa.ChunkedArray | list[str],
    spec: str = "tfidf",
    *,
    dim: int | None = None,
    seed: int = 0,
) -> Floats:
    """(texts, dimensions) float32 vectors of length one; zeros for texts that say nothing.

    `dim` numbers each for `tfidf` (512), fewer where there are not as many words or texts.
    """
    return of_texts(as_texts(texts), spec, "these texts", dim=dim, seed=seed)[0]


def vectors_for(
    spec: str,
    *,
    texts: pa.Array | pa.ChunkedArray | list[str],
    sequences: Sequences | None = None,
    items: int,
    where: str,
    dim: int | None = None,
    seed: int = 0,
) -> tuple[Floats, dict[str, Any]]:
    """What a dataset without vectors of its own calls: row i for item i, and how it was made.

    `notes` among the facts are for people (`Corpus.notes`). `sequences` are whole: what may be learned from
    is cut out here. What takes long is kept in the cache under a name made of everything it came from.
    """
    from sidbench.embed.collaborative import of_sequences

    if spec == "collaborative":
        if sequences is None:
            raise UsageError(f"{where}: embedding = 'collaborative' needs sequences, and there are none")
        return of_sequences(sequences, items, dim=dim, seed=seed)
    if Path(spec).expanduser().is_file():
        return of_file(Path(spec).expanduser(), items, where)
    array = as_texts(texts)
    if len(array) != items:
        raise DataError(f"{where}: {len(array):,} texts for {items:,} items; every item needs its text")
    return of_texts(array, spec, where, dim=dim, seed=seed)


def of_texts(
    texts: pa.Array, spec: str, where: str, *, dim: int | None, seed: int
) -> tuple[Floats, dict[str, Any]]:
    """Vectors of texts and how they were made, from the cache where they are there."""
    from sidbench.embed import model, tfidf

    if spec == "tfidf":

        def learn() -> tuple[Floats, dict[str, Any]]:
            fitted = tfidf.Tfidf.fit(texts, dim or tfidf.DIM, seed)
            about = {"source": "text", **fitted.facts(), "seed": seed, "notes": fitted.notes()}
            return fitted.transform(texts), about

        key = key_of(texts, spec, dim, seed, Path(tfidf.__file__))
        x, facts = learn() if len(texts) < WORTH_KEEPING else kept(key, learn)
    else:
        folder = Path(spec).expanduser()
        if not folder.is_dir() and "/" not in spec:
            raise UsageError(
                f"{where}: unknown embedding {spec!r}{nearest(spec, KNOWN)} Expected {EXPECTED}."
            )
        encoder = model.find(spec)
        about = encoder.facts()
        key = key_of(texts, spec if not folder.is_dir() else "", dim, about, Path(model.__file__))

        def read() -> tuple[Floats, dict[str, Any]]:
            work = cache_folder() / f".{key}-shards"
            rows = tfidf.unit(model.encode(texts, encoder, work)[:, :dim])
            return rows, {"source": "text", **about, "dim": rows.shape[1], "notes": []}

        x, facts = kept(key, read)
        shutil.rmtree(cache_folder() / f".{key}-shards", ignore_errors=True)
    return x, {**facts, **count_zeros(x, texts, facts["notes"])}


def of_file(path: Path, items: int, where: str) -> tuple[Floats, dict[str, Any]]:
    """Somebody's vectors as they are; row i is item i."""
    from sidbench.vectors import open_vectors

    vectors = open_vectors(path)
    if vectors.rows != items:
        raise DataError(
            f"{where}: {path} has {vectors.rows:,} rows, there are {items:,} items; row i is item i"
        )
    x = vectors.read(0, items)
    check_embeddings(x, f"{where}: {path}")
    about = {"source": "vectors", "file": path.name, "dim": vectors.dim, "notes": []}
    return x, about | facts_of(learned_beside(path))


def facts_of(learned: Learned) -> dict[str, Any]:
    """The same among the facts of vectors, as `sidbench embed` records them."""
    about = {"learned_under": learned.under, "interactions_sha256": list(learned.digests)}
    return about if learned.under else {}


def learned_as(facts: dict[str, Any]) -> Learned:
    """What facts of vectors tell."""
    return Learned(str(facts.get("learned_under", "")), tuple(facts.get("interactions_sha256", ())))


def learned_beside(path: Path) -> Learned:
    """From which training interactions `sidbench embed` learned a file of vectors, if from any.

    Its manifest says so, as long as it lies beside just this file.
    """
    from sidbench.embed.job import Place, read_manifest
    from sidbench.embed.output import sha256

    place = Place(path)
    if not place.manifest.is_file():
        return Learned()
    manifest = read_manifest(place.manifest)
    found = [f for f in manifest["found"] if f.get("learned_under")]
    if not found or manifest["output"]["sha256"] != sha256(path):
        return Learned()
    digests = dict.fromkeys(d for f in found for d in f.get("interactions_sha256") or [""])
    return Learned(found[0]["learned_under"], tuple(digests))


def as_texts(texts: pa.Array | pa.ChunkedArray | list[str]) -> pa.Array:
    """One arrow array of text; nothing stands for an empty one."""
    import pyarrow.compute as pc

    array = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    try:
        return pc.fill_null(array.cast(pa.large_string()), "")
    except pa.ArrowInvalid:
        raise DataError(f"texts are {array.type}; expected text") from None


def count_zeros(x: Floats, texts: pa.Array, notes: list[str]) -> dict[str, Any]:
    """How many rows are zero, and why, in numbers and in a note."""
    import pyarrow.compute as pc

    empty = pc.equal(pc.utf8_trim_whitespace(texts), "").to_numpy(zero_copy_only=False)
    zero = ~x.any(axis=1)
    facts: dict[str, Any] = {"empty_texts": int(empty.sum()), "zero_vectors": int(zero.sum()), "notes": notes}
    if zero.any():
        notes.append(
            f"{zero.sum():,} of {len(x):,} items have a vector of zeros: {(zero & empty).sum():,} have no "
            f"text, {(zero & ~empty).sum():,} no word that is known of others"
        )
    return facts


def key_of(texts: pa.Array, *made_from: object) -> str:
    """A hash of these texts by value, of everything named beside them and of the code that reads them."""
    h = hashlib.blake2b(digest_size=12)
    for part in made_from:
        h.update((part.read_bytes() if isinstance(part, Path) else repr(part).encode()) + b"\0")
    h.update(np.__version__.encode())
    update_with_texts(h, texts)
    return f"embedding-{h.hexdigest()}"


def update_with_texts(h: Any, texts: pa.Array) -> None:
    """Feed a hash with texts by value, wherever in arrow's buffers they begin."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    h.update(np.ascontiguousarray(np.diff(ends)).data)
    if data is not None:
        h.update(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].data)


def kept(key: str, make: Any) -> tuple[Floats, dict[str, Any]]:
    """What the cache holds under this name; else what `make` gives, kept for the next time."""
    rows, about = cache_folder() / f"{key}.npy", cache_folder() / f"{key}.json"
    try:
        return np.load(rows, allow_pickle=False), json.loads(about.read_text())
    except (FileNotFoundError, ValueError, EOFError):  # absent, or torn by something other than this program
        pass
    x, facts = make()
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=rows.parent, prefix=f".{key}-") as parts:
            np.save(Path(parts) / "rows.npy", x)
            (Path(parts) / "about.json").write_text(json.dumps(facts))
            (Path(parts) / "about.json").replace(about)
            (Path(parts) / "rows.npy").replace(rows)
    except OSError as e:
        raise DataError(
            f"cannot keep vectors in {rows} ({e}); "
            "set SIDBENCH_CACHE to a folder with room that can be written"
        ) from None
    return x, facts
