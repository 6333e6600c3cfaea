"""The commands that take and leave files: data, embeddings, tokenizers, SIDs. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sidbench.catalogue.job import Source

#: Where they stand in `sidbench --help`.
PANEL = "Data in, SIDs out"

app = typer.Typer()
data = typer.Typer(no_args_is_help=True, help="Your own data: what is understood of them.")
app.add_typer(data, name="data", rich_help_panel=PANEL)

Vectors = Annotated[
    Path,
    typer.Argument(
        help="Item vectors: .npy, .parquet, .safetensors, .npz, .csv, .fbin, a plain dump (with --dim and "
        "--dtype), or a folder of such files."
    ),
]
Column = Annotated[
    str | None, typer.Option(help="The column or tensor of vectors, where several could be meant.")
]
IdColumn = Annotated[
    str | None, typer.Option(help="The column of item ids. [dim]Default: item_id or the like.[/dim]")
]
Ids = Annotated[
    Path | None, typer.Option(help="A file with an id for every row (.npy, .parquet, .json, .txt).")
]
Dim = Annotated[int | None, typer.Option(help="Numbers in a row of a plain dump.")]
Dtype = Annotated[str | None, typer.Option(help="Numbers of a plain dump: float32, float16, bfloat16…")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME.PARAMETER=VALUE", help="A parameter. Repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")]
Threads = Annotated[int, typer.Option(help="Processor threads; 0 = all cores.")]
Redo = Annotated[bool, typer.Option("--redo", help="Begin anew, whatever is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def _source(
    path: Path,
    column: str | None,
    id_column: str | None,
    ids: Path | None,
    dim: int | None,
    dtype: str | None,
) -> Source:
    from sidbench.catalogue.job import Source

    return Source(str(path), column, id_column, dim, dtype, None if ids is None else str(ids))


@app.command(rich_help_panel=PANEL)
def fit(
    method: Annotated[str, typer.Argument(help="A tokenizer by name; `sidbench list methods` has them.")],
    vectors: Vectors,
    out: Annotated[Path, typer.Option(help="The folder that takes the fitted tokenizer and its manifest.")],
    set_: Sets = None,
    sample: Annotated[
        int | None, typer.Option(help="Fit to so many rows drawn at random. [dim]Default: all rows.[/dim]")
    ] = None,
    column: Column = None,
    id_column: IdColumn = None,
    ids: Ids = None,
    dim: Dim = None,
    dtype: Dtype = None,
    device: Device = "auto",
    threads: Threads = 0,
    redo: Redo = False,
    as_json: Json = False,
) -> None:
    """Fit a tokenizer to vectors of any size; the folder it leaves is what `sidbench encode` takes.

    A fit that is killed goes on from its last checkpoint with the same command.
    """
    from sidbench.commands.fit import fit as execute

    source = _source(vectors, column, id_column, ids, dim, dtype)
    raise typer.Exit(
        execute(
            method,
            source,
            out,
            sets=set_ or [],
            sample=sample,
            device=device,
            threads=threads,
            redo=redo,
            as_json=as_json,
        )
    )


@app.command(rich_help_panel=PANEL)
def encode(
    model: Annotated[
        str, typer.Argument(help="A folder that `sidbench fit` left, or a run of --results by method or id.")
    ],
    vectors: Vectors,
    out: Annotated[
        Path,
        typer.Option(
            help="A file (.parquet, .npz, .json), or a folder for sids.parquet or, with --shard-rows, shards."
        ),
    ],
    shard_rows: Annotated[
        int | None, typer.Option(min=1, help="A folder of files with so many rows.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="What a folder holds: npz, json, or parquet if nothing is said."),
    ] = None,
    resolver: Annotated[
        str | None,
        typer.Option(help="A resolver as the last step, such as suffix. [dim]Default: none.[/dim]"),
    ] = None,
    set_: Sets = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Encode so many items again at the end and compare.")
    ] = 0,
    column: Column = None,
    id_column: IdColumn = None,
    ids: Ids = None,
    dim: Dim = None,
    dtype: Dtype = None,
    results: Annotated[Path, typer.Option(help="Results folder in which MODEL may be a run.")] = Path(
        "results"
    ),
    device: Device = "auto",
    threads: Threads = 0,
    engine: Annotated[
        str, typer.Option(help="local (this process) or ray: a shard a task, each with --threads cores or 1.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A Ray cluster that runs already; auto: on this machine."),
    ] = None,
    redo: Redo = False,
    as_json: Json = False,
) -> None:
    """SIDs for a catalogue of any size. What is killed goes on with the same command.

    A manifest with checksums says which model and input they are from; others are not mixed in.
    """
    from sidbench.commands.encode import encode as execute

    source = _source(vectors, column, id_column, ids, dim, dtype)
    raise typer.Exit(
        execute(
            model,
            source,
            out,
            results=results,
            shard_rows=shard_rows,
            form=form,
            resolver=resolver,
            sets=set_ or [],
            verify=verify,
            device=device,
            threads=threads,
            engine=engine,
            address=address,
            redo=redo,
            as_json=as_json,
        )
    )


@app.command(rich_help_panel=PANEL)
def embed(
    items: Annotated[
        Path, typer.Argument(help="Your items: .parquet, .csv, .jsonl; or a folder with items.parquet.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The vectors: .npy, .parquet or .safetensors. [dim]Default: beside the items, as .npy.[/dim]"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Columns that say what an item is, commas between; item=COLUMN names that of ids. "
            "[dim]Default: title, brand, categories and the like, those that are there.[/dim]",
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help='The text in their place: "{title}. Brand: {brand}".')
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="tfidf (no download), or a language model: sentence-transformers/NAME, or its folder. Needs "
            "pip install 'sidbench[embed]'."
        ),
    ] = "tfidf",
    dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Numbers of an item from each source that learns them (tfidf 512, sequences 128); of a "
            "model, the first so many.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:WHAT]",
            help="text, text:title,brand, vectors:FILE (of images, say) or sequences:FILE (what training "
            "interactions say); columns are named behind a file: sequences:FILE:user=buyer,item=sku. "
            "Repeatable: they are joined. [dim]Default: text.[/dim]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="How much each --source counts in a cosine, such as 1,0.5."),
    ] = None,
    pca: Annotated[
        int | None, typer.Option(metavar="DIM", min=1, help="Keep so many principal axes, as they are.")
    ] = None,
    whiten: Annotated[
        str | None,
        typer.Option(
            metavar="DIM|zca", help="Keep so many principal axes and make them equally long; or ZCA of all."
        ),
    ] = None,
    eps: Annotated[
        float, typer.Option(min=0.0, help="Added to each variance when whitening, in shares of their mean.")
    ] = 1e-3,
    normalize: Annotated[bool, typer.Option(help="Rows of length one at the end.")] = True,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a model reads at a time.")] = 64,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a text that a model reads. [dim]Default: its own bound.[/dim]"),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help='What some models want before every text, such as "passage: ".')
    ] = "",
    device: Annotated[str, typer.Option(help="auto (every GPU, else cpu), cpu, cuda or cuda:0.")] = "auto",
    processes: Annotated[
        int, typer.Option(min=0, help="Processes that run a model. [dim]Default: one a GPU, or one.[/dim]")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of what draws random numbers.")] = 0,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For new items: vectors of an earlier call, whose steps apply as learned."
        ),
    ] = None,
    redo: Redo = False,
    as_json: Json = False,
) -> None:
    """Vectors of items from their text, from files and from sequences, with every step recorded.

    What is killed goes on with the same command; what is done already returns at once.
    """
    from sidbench.commands.embed import Options
    from sidbench.commands.embed import embed as execute

    options = Options(
        items=items,
        out=out,
        columns=columns,
        template=template,
        model=model,
        dim=dim,
        source=tuple(source or ()),
        weights=weights,
        pca=pca,
        whiten=whiten,
        eps=eps,
        normalize=normalize,
        dtype=dtype,
        batch_size=batch_size,
        max_length=max_length,
        prompt=prompt,
        device=device,
        processes=processes,
        seed=seed,
        like=like,
        redo=redo,
    )
    raise typer.Exit(execute(options, as_json=as_json))


@data.command("check")
def data_check(
    what: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="A folder or a dataset's name; or give --items.")
    ] = None,
    items: Annotated[
        str | None, typer.Option(metavar="FILE", help="Your own items, with vectors, or words, or neither.")
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(metavar="FILE", help="What users did: user, item, time; or user and a list.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(metavar="FILE", help="Vectors, where they lie in a file of their own.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(metavar="HOW", help="How vectors would be made of words, such as tfidf.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="WHAT=COLUMN", help="Columns that are not recognised: item=asin,user=reviewer."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="A parameter of the dataset. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read data once and say what they are: counts, columns, ties, gaps, broken or equal vectors.

    Exits with 0 where a run can use them, 1 where it cannot, 2 for wrong usage. Nothing is trained or kept.
    """
    from sidbench.commands.data import check

    own = {
        "items": items,
        "sequences": sequences,
        "embeddings": embeddings,
        "embedding": embedding,
        "columns": columns,
    }
    raise typer.Exit(check(what, own, set_ or [], as_json=as_json))


@app.command(rich_help_panel=PANEL)
def export(
    what: Annotated[
        str,
        typer.Argument(
            help="A run (its id, method, or METHOD+RESOLVER), an artifact's folder, or a file of SIDs."
        ),
    ],
    to: Annotated[str, typer.Option(help="The format to write; `sidbench list formats` has them.")],
    out: Annotated[Path, typer.Option(help="The file, or for some formats the folder, to write.")],
    base: Annotated[
        int | None,
        typer.Option(help="What codes are counted from in what is written. [dim]Default: 0.[/dim]"),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="keep or drop the suffix of a resolver. [dim]Default: keep.[/dim]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="A parameter of the format. Repeatable."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="The sequences, for formats that write them. [dim]Default: the run's own.[/dim]"),
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="The format of a file, where its ending does not say.")
    ] = "auto",
    from_base: Annotated[str, typer.Option(help="What a file counts from, where it does not say.")] = "auto",
    from_orientation: Annotated[
        str, typer.Option(help="What a row of a file's matrix is: items or levels.")
    ] = "auto",
    from_suffix: Annotated[
        str, typer.Option(help="Whether a file's last code is a suffix: none, 0 or 1 that it counts from.")
    ] = "auto",
    results: Annotated[str, typer.Option(help="Folder of records and artifacts.")] = "results",
    redo: Annotated[bool, typer.Option("--redo", help="Write over what is there, whose it may be.")] = False,
    as_json: Json = False,
) -> None:
    """Write SIDs as another system reads them, and a manifest that says base, orientation and suffix.

    An earlier export of the same name is replaced; anything else that is there only with --redo.
    """
    from sidbench.commands.export import export as execute
    from sidbench.format import how

    given = [f"{k}={v}" for k, v in (("base", base), ("suffix", suffix)) if v is not None]
    raise typer.Exit(
        execute(
            what,
            to,
            out,
            Path(results),
            how=how(from_, from_base, from_orientation, from_suffix, "--from-{} {}"),
            sets=[*(set_ or []), *given],
            dataset=dataset,
            redo=redo,
            as_json=as_json,
        )
    )


@app.command("import", rich_help_panel=PANEL)
def import_(
    file: Annotated[Path, typer.Argument(help="A file of SIDs of another system.")],
    out: Annotated[Path, typer.Option(help="The folder for sids.parquet and its manifest.")],
    from_: Annotated[
        str,
        typer.Option("--from", help="Its format; `sidbench list formats` has them. auto = by its ending."),
    ] = "auto",
    base: Annotated[
        str, typer.Option(help="What its codes count from, where the file does not say: 0 or 1.")
    ] = "auto",
    orientation: Annotated[
        str, typer.Option(help="What a row of a matrix is, where its shape does not say: items or levels.")
    ] = "auto",
    suffix: Annotated[
        str, typer.Option(help="Whether the last code is a suffix, and counted from what: none, 0 or 1.")
    ] = "auto",
    sizes: Annotated[
        str | None,
        typer.Option(help="Codes a level, such as 256,256,256. [dim]Default: the largest met.[/dim]"),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Replace the SIDs of an earlier import.")] = False,
    as_json: Json = False,
) -> None:
    """Take in SIDs that another system made: what the file cannot say is asked for, never guessed."""
    from sidbench.commands.import_ import import_ as execute
    from sidbench.commands.subject import numbers
    from sidbench.format import how

    raise typer.Exit(
        execute(
            file,
            out,
            how=how(from_, base, orientation, suffix),
            sizes=numbers(sizes),
            redo=redo,
            as_json=as_json,
        )
    )


@app.command(rich_help_panel=PANEL)
def ensure(
    out: Annotated[Path, typer.Argument(help="The file of SIDs, such as semantic_id_dict.json.")],
    embeddings: Annotated[
        Path, typer.Option(help="Item vectors, as `sidbench encode` takes them, or a folder of such files.")
    ],
    method: Annotated[str, typer.Option(help="The tokenizer.")] = "rq-kmeans",
    set_: Sets = None,
    to: Annotated[
        str | None, typer.Option(help="The format, by name. [dim]Default: what OUT's name says.[/dim]")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Fit to so many rows drawn at random. [dim]Default: all rows.[/dim]")
    ] = None,
    resolver: Annotated[
        str | None, typer.Option(help="What to do where items share a SID. [dim]Default: nothing.[/dim]")
    ] = None,
    column: Column = None,
    id_column: IdColumn = None,
    ids: Ids = None,
    dim: Dim = None,
    dtype: Dtype = None,
    device: Device = "auto",
    redo: Redo = False,
    as_json: Json = False,
) -> None:
    """Fit and write SIDs only where they are missing or stale; otherwise return at once.

    Stale is what was made from other vectors, parameters or code, as the manifest beside says. An error
    leaves the SIDs that were there, and never any others. A file that ensure did not make stays, and is
    told: only --redo replaces it.
    """
    from sidbench.commands.ensure import ensure as execute

    raise typer.Exit(
        execute(
            out,
            embeddings,
            method=method,
            resolver=resolver,
            sets=set_ or [],
            as_json=as_json,
            to=to,
            sample=sample,
            column=column,
            id_column=id_column,
            ids=None if ids is None else str(ids),
            dim=dim,
            dtype=dtype,
            device=device,
            redo=redo,
        )
    )
