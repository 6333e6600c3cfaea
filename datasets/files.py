"""Files: any two files of your own, items with vectors and what users did, columns recognised or named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sidbench.errors import UsageError
from sidbench.files.columns import Columns
from sidbench.files.items import Policy
from sidbench.files.reading import Sources
from sidbench.folder import TABLES, OwnFiles, one_of

#: Files of events that are found beside the items where none is named.
BESIDE = ("sequences", "events", "interactions", "ratings", "reviews", "train")
#: Names that say nothing of what is in the file: the folder's says more.
BLAND = ("items", "item", "products", "catalogue", "catalog", "movies", "embeddings", "vectors", "metadata")


class Files(OwnFiles):
    """Your own files, whatever they are called: --items FILE --sequences FILE.

    Items: a table (.parquet, .csv, .tsv, .jsonl, .feather, a folder of parquet parts) with vectors in a
    column, in numbered columns, or beside (`embeddings`: .npy, .npz, .safetensors, .fbin, a plain dump,
    another table; joined by id where it has ids, else row by row), or such a file of vectors alone.
    Sequences: a row an event (user, item, time) or a row a user (user, list of items, perhaps of times).
    What cannot be used is left out, counted and said.
    """

    name = "files"
    variant = "items"

    #: The items: a table, or a file of vectors.
    items: Path = Path()
    #: What users did; without it, a file called sequences, events, interactions, ratings or reviews beside.
    sequences: Path | None = None
    #: Vectors in a file of their own.
    embeddings: Path | None = None
    #: How vectors are made of words where there are none: tfidf, collaborative, sentence-transformers/NAME.
    embedding: str = ""
    #: Which column is what, where it is not recognised: item=asin,user=reviewer,sequences.item=iid.
    columns: str = ""
    #: Events of equal time: in the file's order, or shuffled by a fixed hash.
    ties: Literal["file", "shuffle"] = "file"
    #: Vectors with NaN or infinity: an error, or such numbers become zero.
    nan: Literal["error", "zero"] = "error"
    #: Items whose id repeats an earlier one: an error, or the first stands.
    repeated: Literal["error", "first"] = "error"
    #: Items without id or vector; events without user, item, time or a known item: left out, or an error.
    unusable: Literal["drop", "error"] = "drop"
    #: Numbers in a row of a plain dump of vectors; dimensions of vectors that are made of words.
    dim: Annotated[int, Field(ge=1)] | None = None
    #: What a plain dump of vectors holds, such as float16.
    dtype: str = ""
    #: What boards call these data; without it, the items' file, or its folder.
    called: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        Columns.parse(self.columns)
        if self.embedding and self.embeddings is not None:
            raise UsageError(
                f"--embedding {self.embedding} makes vectors, --embeddings {self.embeddings.name} gives "
                "them: leave one of the two out"
            )

    def title(self) -> str:
        items = self.items.expanduser().resolve()
        stem = items.name.partition(".")[0]
        return self.called or (items.parent.name if stem.lower() in BLAND else stem) or "files"

    def sources(self) -> Sources:
        items = self.items.expanduser()
        if self.items == Path():
            raise UsageError("no items are named: --items FILE, or --dataset files:FILE")
        if not items.exists():
            raise UsageError(f"there is no file {items}; check --items")
        for path, option in ((self.sequences, "sequences"), (self.embeddings, "embeddings")):
            if path is not None and not path.expanduser().exists():
                raise UsageError(f"there is no file {path}; check --{option}")
        return Sources(
            items=items,
            sequences=one_of(items.parent, BESIDE, TABLES)
            if self.sequences is None
            else self.sequences.expanduser(),
            embeddings=None if self.embeddings is None else self.embeddings.expanduser(),
            columns=Columns.parse(self.columns),
            policy=Policy(self.nan, self.repeated, self.unusable),
            ties=self.ties,
            embedding=self.embedding,
            dim=self.dim,
            dtype=self.dtype or None,
        )
