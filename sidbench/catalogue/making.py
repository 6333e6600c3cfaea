"""The work behind `ensure`: fit, encode, and the SIDs in another system's format, all beside their place."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sidbench import provenance, registry
from sidbench.catalogue.contents import by_content
from sidbench.catalogue.encode import encode
from sidbench.catalogue.ensure import Wanted
from sidbench.catalogue.files import content_sha256, refused, sha256
from sidbench.catalogue.fit import fit
from sidbench.catalogue.job import Source
from sidbench.catalogue.output import codes_of, read_tables
from sidbench.errors import UsageError
from sidbench.format import Export, Format
from sidbench.formats import reading
from sidbench.plugin import configure
from sidbench.resolver import Resolver
from sidbench.sids import SIDs
from sidbench.tokenizer import Tokenizer


@dataclass(frozen=True)
class Making:
    """Everything by name found: the tokenizer, its rows, the resolver, the format."""

    tokenizer: Tokenizer
    source: Source
    sample: int | None
    resolver: Resolver | None
    format: Format
    name: str

    @classmethod
    def of(cls, out: Path, wanted: Wanted, device: str) -> Making:
        """What a person asked for; a wrong name says so before anything is done."""
        tokenizer = configure(registry.find("tokenizer", wanted.method), {**wanted.params, "device": device})
        resolver = None
        if wanted.resolver is not None:
            resolver = configure(registry.find("resolver", wanted.resolver), dict(wanted.resolver_params))
        if wanted.to is not None:
            form = reading.find(wanted.to, "write")
        else:
            found = reading.by_ending(out)
            if found is None or not found.supports("write"):
                raise UsageError(
                    f"{out.name}: its name says no format that can be written; name one with --to "
                    f"({', '.join(n for n, c in reading.known().items() if c.supports('write'))})"
                )
            form = found
        if form.needs_corpus or form.needs_tokenizer:
            raise UsageError(f"{form.name} is written of a run: use `sidbench export`")
        source = Source(
            wanted.embeddings, wanted.column, wanted.id_column, wanted.dim, wanted.dtype, wanted.ids
        )
        source.refuse(out)
        return cls(tokenizer, source, wanted.sample, resolver, form(), out.name)

    @property
    def modules(self) -> list[str]:
        """Where the code is that decides the SIDs."""
        parts = (self.tokenizer, self.format, *(() if self.resolver is None else (self.resolver,)))
        return [*(type(p).__module__ for p in parts), "sidbench.catalogue.making"]

    def identity(self) -> dict[str, Any]:
        """What decides the SIDs: parameters, code and the rows' content."""
        return {
            "method": self.tokenizer.name,
            "params": by_content(self.tokenizer.deciding()),
            "sample": self.sample,
            "resolver": None if self.resolver is None else self.resolver.name,
            "resolver_params": {} if self.resolver is None else by_content(self.resolver.deciding()),
            "format": self.format.name,
            "code": provenance.code_fingerprint(self.modules),
            "input_sha256": content_sha256(self.source.open()),
        }

    def write(self, work: Path) -> dict[str, Any]:
        """Fit and encode in this folder, going on from what is there, and write the file in it."""
        fitted = fit(self.tokenizer, self.source, work / "model", sample=self.sample)
        done = encode(work / "model", self.source, work / "sids.parquet", resolver=self.resolver)
        table = pa.concat_tables(read_tables(work / "sids.parquet", ".parquet"))
        ids = table.column("item_id").to_numpy()
        sids = SIDs(
            codes_of(table).astype(np.int32),
            tuple(done.manifest["sizes"]),
            ids.astype(np.str_) if ids.dtype == object else ids,
        )
        export = self.format.prepared(Export(sids, len(self.tokenizer.sizes)))
        shutil.rmtree(work / "out", ignore_errors=True)
        (work / "out").mkdir()
        made = work / "out" / self.name
        try:
            self.format.write(export, made)
            ids = reading.write_ids(self.format, export, made)
        except OSError as e:
            raise refused(made, e) from None
        beside = {} if ids is None else {"ids": ids.name, "files": {ids.name: sha256(ids)}}
        return {
            "format": self.format.name,
            "items": len(sids),
            "base": self.format.first,
            "orientation": self.format.rows,
            "levels": export.sids.levels,
            "sizes": list(export.sids.sizes),
            "suffix": {"base": self.format.first} if export.has_suffix else None,
            "error": fitted.manifest["error"],
            "sha256": sha256(made),
            **beside,
        }

    def settle(self, work: Path, out: Path) -> None:
        """Put the file, and whatever the format wrote beside it, in its place."""
        for path in sorted((work / "out").iterdir(), key=lambda p: p.name == self.name):  # the file last
            path.replace(out.with_name(path.name))
