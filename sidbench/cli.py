"""The command line: parse, call, print. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sidbench import __version__, cli_files
from sidbench.errors import SidbenchError, UsageError

#: Commands that go on where they were stopped.
RESUMED = ("run", "fit", "encode", "ensure", "embed")


class _Commands(TyperGroup):
    """Ctrl-C ends any command cleanly: typer itself would exit without a word."""

    def invoke(self, ctx: Any) -> Any:  # its type is private to typer
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            go_on = " What had finished stands; the same command goes on from there."
            said = f"\nstopped.{go_on if ctx.invoked_subcommand in RESUMED else ''}"
            typer.echo(said, err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="sidbench",
    cls=_Commands,
    help="Benchmark Semantic ID tokenizers for generative recommendation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 all ran, 1 something failed (the others' results stand), 2 wrong usage.",
)

Results = Annotated[str, typer.Option(help="Folder of records, artifacts and the board.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"sidbench {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        import logging

        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("sidbench").setLevel(logging.DEBUG)


@app.command(context_settings={"allow_extra_args": True})
def run(
    ctx: typer.Context,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods by name, commas between; all = every tokenizer and reference. "
            "[dim]Default: all.[/dim]"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="By name (`sidbench list datasets`): synthetic:tiny, movielens:1m, minionerec:FOLDER; or a "
            "folder's path, or its name in SIDBENCH_DATA. [dim]Default: synthetic.[/dim]"
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Your own items: .parquet, .csv, .tsv, .jsonl, .npy, .npz, .safetensors, a folder of parts.",
        ),
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What users did: user, item, time; or user and a list. [dim]With --items.[/dim]",
        ),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Vectors of --items, where they lie in a file of their own."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How vectors are made of words: tfidf, sentence-transformers/NAME, collaborative.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT=COLUMN",
            help="Columns that are not recognised, commas between: item=asin,user=reviewer,time=ts.",
        ),
    ] = None,
    resolvers: Annotated[
        str | None, typer.Option(help="Resolvers by name, or all. [dim]Default: suffix.[/dim]")
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="Decoder preset: quick, timed, standard or paper. "
            "[dim]Default: quick; timed where --budget names a time.[/dim]"
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|SEQUENCES",
            help="What each row's training is given: a time, with its search but without the tokenizer's fit "
            "(90s, 5m, 1h30m), or training sequences (50000seq): one target each with tiger, up to `history` "
            "of them with causal and sasrec. [dim]Default: the preset's steps.[/dim]",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Which interactions train, select and test: leave-one-out, time-split, cold-start or "
            "published. [dim]Default: published for data that bring a split, else leave-one-out.[/dim]"
        ),
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(help="keep or mask the items of a user's own history. [dim]Default: keep.[/dim]"),
    ] = None,
    cutoffs: Annotated[
        str | None, typer.Option(help="K of Recall@K and the like. [dim]Default: 1,5,10,20.[/dim]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds; several give mean ± standard deviation. [dim]Default: 0.[/dim]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.PARAMETER=VALUE",
            help="A parameter of a method, a variant (rq-kmeans@long), a resolver, decoder, dataset, "
            "protocol, logger, or all tokenizers. Repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Run file (TOML) with the same names as these options.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:0. [dim]Default: auto.[/dim]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads. [dim]Default: all cores.[/dim]")
    ] = None,
    results: Annotated[
        str | None,
        typer.Option(help="Folder of records, artifacts and the board. [dim]Default: results.[/dim]"),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Loggers by name, commas between: tensorboard, mlflow. They write to logs/ in the results "
            "folder. [dim]Default: none.[/dim]",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="local (this process) or ray: rows as tasks of a cluster, each with --threads cores and, on "
            "cuda, a GPU; all nodes share the results folder. [dim]Default: local.[/dim]"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A Ray cluster that runs already; auto: on this machine. [dim]Default: one is made.[/dim]",
        ),
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Run again what is done and fresh.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan with an estimate of time, memory and disk; run nothing."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit every tokenizer, train the shared decoder on its SIDs, write records and the leaderboard.

    Rows that are done and fresh are kept. What is stopped, however, goes on with the same command.
    """
    from sidbench.commands.run import run as execute
    from sidbench.settings import read_settings

    if ctx.args:  # `run rq-kmeans`, `--methods rq-kmeans, random`
        raise UsageError(
            f"run takes options alone, so what is {ctx.args[0]!r}? Methods go by --methods, several with "
            "commas and no spaces between: --methods rq-kmeans,random"
        )

    given = {
        "methods": methods,
        "dataset": dataset,
        "items": items,
        "sequences": sequences,
        "embeddings": embeddings,
        "embedding": embedding,
        "columns": columns,
        "resolvers": resolvers,
        "decoder": decoder,
        "budget": budget,
        "protocol": protocol,
        "seen": seen,
        "cutoffs": cutoffs,
        "seeds": seeds,
        "device": device,
        "threads": threads,
        "results": results,
        "log": log,
        "engine": engine,
        "address": address,
    }
    settings = read_settings(config, given, set_ or [])
    raise typer.Exit(
        execute(settings, redo=redo, dry_run=dry_run, as_json=as_json, command=_command(ctx.obj))
    )


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="methods, datasets, resolvers, references, loggers, formats, decoders, protocols or metrics."
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option("--params", metavar="NAME", help="Explain each parameter of one plugin, or of decoder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """What there is: methods, datasets, resolvers, metrics, with their parameters."""
    from sidbench.commands.plugins import list_ as execute
    from sidbench.commands.plugins import params as explain

    if params is not None and kind is not None:
        raise typer.BadParameter("give a KIND, or --params NAME, not both")
    raise typer.Exit(execute(kind, as_json=as_json) if params is None else explain(params, as_json=as_json))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A tokenizer, resolver or dataset, or all.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="Check it with this parameter."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put a plugin through every conformance check."""
    from sidbench.commands.plugins import check as execute

    raise typer.Exit(execute(name, set_ or [], as_json=as_json))


@app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(
            help="A run: its id or the start of it, or its method, or METHOD+RESOLVER: the newest."
        ),
    ],
    item: Annotated[str | None, typer.Option(help="One item, by its own id.")] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """An item's SID, its neighbours in the tree and who shares its code."""
    from sidbench.commands.show import show as execute

    raise typer.Exit(execute(run, item, Path(results), as_json=as_json))


@app.command()
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            help="A run (its id or a method's name, as for show), a folder with an artifact, or a file of "
            "SIDs (index.json, parquet, npy, and what else `sidbench list formats` reads)."
        ),
    ],
    format_: Annotated[
        str, typer.Option("--format", help="A file's format, where its ending does not say.")
    ] = "auto",
    base: Annotated[
        str, typer.Option(help="What a file's codes count from, where it does not say: 0 or 1.")
    ] = "auto",
    orientation: Annotated[
        str, typer.Option(help="What a row of a matrix is, where its shape does not say: items or levels.")
    ] = "auto",
    suffix: Annotated[
        str,
        typer.Option(help="Whether a file's last code is a suffix, and counted from what: none, 0 or 1."),
    ] = "auto",
    dataset: Annotated[
        str | None,
        typer.Option(help="Vectors and sequences. [dim]Default: those that the run or artifact names.[/dim]"),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Which interactions count as training; a run knows its own.")
    ] = "leave-one-out",
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Codes a level of a file, such as 256,256,256. [dim]Default: the largest met.[/dim]"
        ),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:COLUMN",
            help="What prefixes should recover, such as items.parquet:brand. "
            "[dim]Default: the dataset's categories.[/dim]",
        ),
    ] = None,
    churn: Annotated[
        bool, typer.Option("--churn", help="Fit twice more: another seed, and a tenth fewer items.")
    ] = False,
    legends: Annotated[bool, typer.Option(help="Say what each number does and does not show.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0.")] = "auto",
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """What SIDs look like without any decoder: use of codes, neighbours, sequences, trie, stability."""
    from sidbench.commands.inspect import inspect as execute
    from sidbench.format import how

    raise typer.Exit(
        execute(
            what,
            Path(results),
            how=how(format_, base, orientation, suffix, named="--format {}"),
            dataset=dataset,
            protocol=protocol,
            sizes=sizes,
            attribute=attribute,
            churn=churn,
            legends=legends,
            device=device,
            as_json=as_json,
        )
    )


@app.command()
def analyze(
    what: Annotated[str, typer.Argument(help="proxies.")],
    results: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of records. Repeatable; the page goes to the first. [dim]Default: results.[/dim]"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="The data of all records that older ones lack. [dim]Default: what each names.[/dim]"
        ),
    ] = None,
    fill: Annotated[
        bool, typer.Option(help="Compute from artifacts what older records lack; they stay as they are.")
    ] = True,
    write: Annotated[bool, typer.Option(help="Write PROXIES.md with its plots.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the page with its records; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """proxies: which number that needs no decoder goes with recall, over all records."""
    from sidbench.commands.analyze import proxies as execute

    roots = [Path(r) for r in results or ["results"]]
    raise typer.Exit(
        execute(what, roots, dataset=dataset, fill=fill, write=write, check=check, as_json=as_json)
    )


@app.command()
def leaderboard(
    results: Results = "results",
    check: Annotated[
        bool, typer.Option("--check", help="Compare the board with its records; write nothing.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Metrics by name, commas between (recall@K = every cut-off), or all: the columns of the "
            "Markdown and of what is printed, until the next `leaderboard` without it. `sidbench list "
            "metrics` names them.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Order the rows that are printed by this metric, the best first."),
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Print every method with every resolver, not the best alone.")
    ] = False,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Take in the runs of another results folder first. Repeatable. Of one run in both, one that "
            "succeeded stands, else the newer one.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write LEADERBOARD.md, its charts and leaderboard.html from the records, and print the tables.

    The page, leaderboard.html, is one file that opens offline.
    """
    from sidbench.commands.leaderboard import leaderboard as execute

    raise typer.Exit(
        execute(
            Path(results),
            check=check,
            as_json=as_json,
            columns=[c.strip() for c in (columns or "").split(",") if c.strip()],
            sort=sort,
            matrix=matrix,
            merge=[Path(other) for other in merge or []],
        )
    )


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A method of the results folder (all its seeds; rq-kmeans+suffix = with that resolver), a "
            "run's id, another results folder, or a commit that holds the results folder."
        ),
    ],
    b: Annotated[str, typer.Argument(help="The same; b is judged by a.")],
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """What moved beyond noise between two methods, runs, results folders (of two machines), or commits.

    Exits with 0 where nothing got worse, 1 where something did beyond noise or failed that ran, 2 where they
    cannot be compared. Times are shown; they decide nothing.
    """
    from sidbench.commands.compare import compare as execute

    raise typer.Exit(execute(a, b, Path(results), as_json=as_json))


@app.command()
def clean(
    results: Results = "results",
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    as_json: Json = False,
) -> None:
    """List what is stale: records of older code, unreadable ones, left-overs. --yes removes it."""
    from sidbench.commands.clean import clean as execute

    raise typer.Exit(execute(Path(results), yes=yes, as_json=as_json))


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="tokenizer.")],
    name: Annotated[str, typer.Argument(help="Its name, such as my-method.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to write it. [dim]Default: this checkout's plugins/, else the current folder.[/dim]"
        ),
    ] = None,
) -> None:
    """Write a commented, working plugin file to start from."""
    from sidbench.commands.plugins import new as execute

    raise typer.Exit(execute(kind, name, folder))


@app.command()
def doctor(results: Results = "results", as_json: Json = False) -> None:
    """Versions, device, threads, conflicting packages, folders that cannot be written."""
    from sidbench.commands.doctor import doctor as execute

    raise typer.Exit(execute(Path(results), as_json=as_json))


app.add_typer(cli_files.app)


def _command(arguments: list[str]) -> str:
    """What the person typed, as the record keeps it."""
    import shlex

    return shlex.join(["sidbench", *(_without_folders(a) for a in arguments if a != "--debug")])


def _without_folders(argument: str) -> str:
    """Boards are shared: of a local path only its last name is kept."""
    option, equals, value = argument.rpartition("=")
    if os.sep in value:
        value = Path(value).name
    return f"{option}{equals}{value}"


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; every error a person can put right is one message."""
    # Threads that spin while they wait cost the other library's threads up to half of two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no ✓ shows a ? in its place
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    debug = "--debug" in arguments
    if debug:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    try:
        if "--resume" in arguments:  # what other systems call it
            raise UsageError(
                "there is no --resume: what was stopped goes on with the same command (--redo begins anew)"
            )
        return app(args=arguments, obj=arguments)
    except SidbenchError as e:
        if debug:
            raise
        typer.echo(f"error: {e}", err=True)
        raise SystemExit(2 if isinstance(e, UsageError) else 1) from None
    except Exception as e:
        if debug:
            raise
        typer.echo(
            f"error: {type(e).__name__}: {e} (this is a bug of sidbench; --debug shows where)", err=True
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
