"""Which column is what: names that are recognised, and names that a person gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidbench.errors import DataError, UsageError, nearest

#: What a column can be, with the names that are recognised, the surest first. Case, dots, dashes and
#: underscores do not count, nor does a type after a colon: `Item_ID:token` is `itemid`.
KNOWN: dict[str, tuple[str, ...]] = {
    "item": (
        "item", "item_id", "iid", "parent_asin", "asin", "product_id", "movie_id", "sku", "pid", "sku_id",
        "book_id", "game_id", "app_id", "track_id", "song_id", "artist_id", "video_id", "photo_id",
        "news_id", "article_id", "doc_id", "document_id", "post_id", "note_id", "business_id", "gmap_id",
        "poi_id", "venue_id", "recipe_id", "course_id", "job_id", "ad_id", "creative_id", "anonymous_cid",
        "cid", "goods_id", "content_id", "variant_id", "article", "product", "movie", "id",
    ),
    "user": (
        "user", "user_id", "uid", "reviewer_id", "customer_id", "member_id", "visitor_id", "client_id",
        "profile_id", "account_id", "author_id", "reviewer", "customer", "visitor", "member", "session_id",
        "session",
    ),
    "time": (
        "timestamp", "time", "ts", "unix_review_time", "unix_time", "event_time", "event_timestamp",
        "created_at", "datetime", "date", "epoch", "t_dat", "t",
    ),
    "items": (
        "items", "item_ids", "sequence", "item_sequence", "item_seq", "item_list", "item_id_list",
        "history", "item_history", "interactions", "asins", "parent_asins", "movie_ids", "product_ids",
        "seq",
    ),
    "times": ("timestamps", "times", "timestamp_list", "time_list", "item_timestamps", "datetimes", "dates"),
    "embedding": (
        "embedding", "embeddings", "emb", "vector", "vectors", "vec", "item_emb", "item_embedding",
        "text_embedding", "text_emb", "image_embedding", "features", "feature",
    ),
    "title": (
        "title", "name", "product_title", "product_name", "item_name", "item_title", "prod_name",
        "movie_title", "app_name", "headline", "text", "description",
    ),
    "categories": ("categories", "category_path"),
}  # fmt: skip
#: Other words for the same, in `--columns`.
ALIASES = {
    "timestamp": "time",
    "timestamps": "times",
    "text": "title",
    "vector": "embedding",
    "name": "title",
}
FILES = ("items", "sequences", "embeddings")


def plain(name: str) -> str:
    """A column's name without what people write differently."""
    return re.sub(r"[^0-9a-z]", "", name.partition(":")[0].lower())


@dataclass(frozen=True)
class Columns:
    """Names that a person gave: `item=asin,user=reviewer`, for one file `sequences.item=iid`."""

    given: dict[tuple[str, str], str] = field(default_factory=dict)
    #: Names that come before all others where they stand exactly so.
    first: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: What is taken under its first names alone.
    closed: tuple[str, ...] = ()
    #: Where a person names a column: what stands before `item=COLUMN`.
    how: str = "--columns "

    @property
    def text(self) -> str:
        """What a person gave, as it is typed."""
        return ",".join(
            f"{file}.{role}={name}" if file else f"{role}={name}" for (file, role), name in self.given.items()
        )

    @classmethod
    def parse(cls, text: str) -> Columns:
        """From the text of `--columns`."""
        given: dict[tuple[str, str], str] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            left, equals, name = (p.strip() for p in part.partition("="))
            file, dot, role = left.rpartition(".")
            role = ALIASES.get(role, role)
            if not (equals and name):
                raise UsageError(
                    f"--columns {part!r} does not fit; expected WHAT=COLUMN, such as item=asin,user=reviewer"
                )
            if dot and file not in FILES:
                raise UsageError(f"--columns {part!r}: before the dot stands one of {', '.join(FILES)}")
            if role not in KNOWN:
                raise UsageError(
                    f"--columns {part!r}: there is no {role!r}{nearest(role, KNOWN)} "
                    f"Known: {', '.join(KNOWN)}."
                )
            given[file, role] = name
        return cls(given)

    def named(self, file: str, role: str) -> str | None:
        """What a person calls this column of this file."""
        return self.given.get((file, role), self.given.get(("", role)))

    def find(self, names: Iterable[str], file: str, role: str) -> str | None:
        """The column of a file that plays a role, if there is one."""
        names = list(names)
        own = self.named(file, role)
        if own is not None:
            if own in names:
                return own
            if (file, role) not in self.given:  # it may be another file's name for it
                return self._recognised(names, role)
            raise DataError(
                f"the {file} file has no column {own!r}{nearest(own, names)} Columns: {', '.join(names)}."
            )
        return self._recognised(names, role)

    def _recognised(self, names: list[str], role: str) -> str | None:
        exact = next((n for n in self.first.get(role, ()) if n in names), None)
        return exact if exact is not None or role in self.closed else recognise(names, role)

    def need(self, names: Iterable[str], file: str, role: str, where: str, taken: Iterable[str] = ()) -> str:
        """The column that plays a role and is not `taken`, or an error that says how to name it."""
        names = list(names)
        found = self.find([n for n in names if n not in taken], file, role)
        if found is None:
            way = "give the files by --items and --sequences, with" if self.first else "name it with"
            if where.removesuffix(".gz").endswith((".csv", ".tsv")):
                where = f"{where}, whose first line names its columns,"
            raise DataError(
                f"{where} has no column {KNOWN[role][0]!r} or of another name that is known for it"
                f"{nearest(KNOWN[role][0], names)} Columns: {', '.join(names)}. Rename it, or {way} "
                f"{self.how}{role}=COLUMN"
            )
        return found

    def check_used(self, tables: Mapping[str, Iterable[str]]) -> None:
        """A name that no file has is a mistake, whichever file was meant."""
        everything = {name for names in tables.values() for name in names}
        for (file, role), name in self.given.items():
            if not file and name not in everything:
                raise DataError(
                    f"--columns {role}={name}: no file has a column {name!r}{nearest(name, everything)} "
                    + " ".join(f"{f}: {', '.join(names)}." for f, names in tables.items())
                )


def recognise(names: Iterable[str], role: str) -> str | None:
    """The column whose name is the surest for a role."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    return next((by_plain[key] for key in map(plain, KNOWN.get(role, (role,))) if key in by_plain), None)
