"""Loggers: what is written is what was reported, read back by each one's own reader; none can lose a row."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sidbench import callbacks as callbacks_module
from sidbench import logger as logger_module
from sidbench import plan, progress, registry
from sidbench.callbacks import Callbacks
from sidbench.logger import Logger, Row
from sidbench.record import RunRecord, Store
from sidbench.settings import read_settings
from tests.conftest import PluginFolder, Said
from tests.tiny import CODES, WORLD, decoder

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")

HAS_TENSORBOARD = find_spec("tensorboard") is not None
HAS_MLFLOW = all(find_spec(name) is not None for name in ("mlflow", "sqlalchemy", "alembic"))
#: What MLflow and what it is built on have to say of each other is no business of ours.
THEIRS = pytest.mark.filterwarnings("ignore:::(mlflow|sqlalchemy|alembic)")
TINY = [*WORLD, *CODES, *decoder(steps=12, eval_every=4)]
#: A reference and a tokenizer that report losses of their own.
ROWS = [*TINY, "--methods", "popularity,rq-vae", "--set", "rq-vae.epochs=6", "--set", "rq-vae.check_every=2"]


@pytest.fixture(autouse=True)
def every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny rows report in milliseconds what others do in minutes: nothing comes too soon."""
    monkeypatch.setattr(callbacks_module, "APART", 0.0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def records(folder: Path) -> dict[str, RunRecord]:
    return {r.label: r for _, r in Store(folder).all() if isinstance(r, RunRecord)}


def curve(folder: Path, name: str) -> dict[str, list[float]]:
    """What the record itself keeps of a training."""
    found = Store(folder).vectors(records(folder)[name])
    return {key: [float(v) for v in found[key]] for key in found if key.startswith("curve_")}


# ------------------------------------------------------------------------------------------- TensorBoard


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return read


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="needs the extra tensorboard")
def test_tensorboard_reads_back_curves_parameters_and_results(sidbench_cli: Cli, tmp_path: Path) -> None:
    results = tmp_path / "r"
    line = ("run", *ROWS, "--log", "tensorboard", "--results", results)
    assert sidbench_cli(*line).code == 0
    logs = results / "logs" / "tensorboard" / "synthetic-tiny"
    for label, record in records(results).items():
        [start] = (logs / label / record.id).iterdir()
        read = events(start)
        names = set(read.Tags()["scalars"])
        for key, value in record.metrics.items():
            [written] = read.Scalars(f"result/{key}")
            assert written.value == pytest.approx(value, rel=1e-6)
        hparams = read.PluginTagToContent("hparams")
        assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= hparams.keys()
        if label == "popularity":
            assert not [n for n in names if not n.startswith("result/")]
            continue
        kept = curve(results, label)
        for tag, steps, values in (
            ("train/loss", "curve_step", "curve_loss"),
            ("train/ndcg@10", "curve_valid_step", "curve_valid_ndcg@10"),
        ):
            written = {s.step: s.value for s in read.Scalars(tag)}
            # A value that is the same as the one before is not told again.
            whole = dict(zip(kept[steps], kept[values], strict=True))
            assert written == {s: pytest.approx(v, rel=1e-6) for s, v in whole.items() if s in written}
            assert len(written) >= len(set(whole.values()))
        assert [s.step for s in read.Scalars("fit/loss")][-1] == 6
    again = sidbench_cli(*line)
    assert again.out.count("kept from an earlier run") == 2
    assert len(list(logs.glob("*/*/*"))) == 2  # nothing ran, nothing is logged


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="needs the extra tensorboard")
def test_clean_knows_the_logs_of_what_is_gone(sidbench_cli: Cli, tmp_path: Path) -> None:
    results = tmp_path / "r"
    line = ("run", *TINY, "--methods", "popularity,item-knn", "--log", "tensorboard", "--results", results)
    assert sidbench_cli(*line).code == 0
    assert "0 stale" in sidbench_cli("clean", "--results", results).out
    gone = records(results)["item-knn"]
    Store(results).path(gone.key).unlink()
    log = results / "logs" / "tensorboard" / "synthetic-tiny" / "item-knn" / gone.id
    assert f"{log}: its record is gone or stale" in sidbench_cli("clean", "--results", results).out
    assert log.is_dir()
    assert sidbench_cli("clean", "--yes", "--results", results).code == 0
    assert not log.parent.exists()
    assert list((results / "logs" / "tensorboard" / "synthetic-tiny" / "popularity").iterdir())


# ------------------------------------------------------------------------------------------------- MLflow


@pytest.mark.skipif(not HAS_MLFLOW, reason="needs the extra mlflow")
@THEIRS
def test_mlflow_reads_back_curves_parameters_and_results(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    plugin_folder.write("raises", RAISES)
    rows = [part.replace("popularity,", "popularity,raises,") for part in ROWS]
    assert sidbench_cli("run", *rows, "--log", "mlflow", "--set", "mlflow.experiment=trial").code == 1
    assert {p.name for p in tmp_path.iterdir()} == {"results", "my plugins"}  # nothing beside the results
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'results' / 'logs' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "trial"]
    runs = {r.data.tags["sidbench.label"]: r for r in client.search_runs([experiment.experiment_id])}
    found = records(tmp_path / "results")
    assert runs.keys() == found.keys() == {"popularity", "raises", "rq-vae"}
    for label, run in runs.items():
        record = found[label]
        assert run.data.tags["sidbench.run"] == record.id
        assert run.info.status == ("FAILED" if label == "raises" else "FINISHED")
        assert run.data.params["dataset.items"] == "300"
        for key, value in record.metrics.items():
            assert run.data.metrics[f"result/{key.replace('@', '_')}"] == value
    assert (
        runs["raises"].data.tags["sidbench.error"]
        == "fit: RuntimeError: no luck (raises.py, line 12, in fit)"
    )
    run = runs["rq-vae"]
    assert run.info.run_name == "rq-vae + suffix"
    assert run.data.params["decoder.params.width"] == "8"
    assert run.data.params["params.epochs"] == "6"
    kept = curve(tmp_path / "results", "rq-vae")
    told = client.get_metric_history(run.info.run_id, "train/ndcg_10")
    whole = dict(zip(kept["curve_valid_step"], kept["curve_valid_ndcg@10"], strict=True))
    assert told
    assert {m.step: m.value for m in told}.items() <= whole.items()
    assert client.get_metric_history(run.info.run_id, "fit/loss")[-1].step == 6


@pytest.mark.skipif(not HAS_MLFLOW, reason="needs the extra mlflow")
@THEIRS
def test_mlflow_writes_where_it_is_told(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    line = ("run", *TINY, "--methods", "popularity", "--log", "mlflow", "--results", tmp_path / "r")
    named = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    assert sidbench_cli(*line).code == 0
    assert not (tmp_path / "r" / "logs").exists()
    [experiment] = [e for e in MlflowClient(tracking_uri=named).search_experiments() if e.name == "sidbench"]
    assert len(MlflowClient(tracking_uri=named).search_runs([experiment.experiment_id])) == 1
    said = sidbench_cli(*line, "--redo", "--set", "mlflow.uri=nonsense://x")
    assert said.code == 2
    assert said.err.startswith("error: --log mlflow cannot begin: ")


@pytest.mark.skipif(not HAS_MLFLOW, reason="needs the extra mlflow")
@THEIRS
def test_mlflow_knows_a_row_that_was_stopped(made: plan.Plan, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    logger, warnings = registry.find("logger", "mlflow")(), list[str]()

    def stopped() -> None:
        with Callbacks([logger], made.bench, tmp_path / "logs", warnings.append) as callbacks:
            callbacks.started(made.tasks[0])
            progress.report("train", 3, 10, loss=2.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not warnings
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "sidbench"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(3, 2.5)]


# ------------------------------------------------------------------------------------------- any logger

RAISES = """
import numpy as np
from sidbench.tokenizer import Tokenizer


class Raises(Tokenizer):
    "A tokenizer of a test."

    name = "raises"

    def fit(self, x):
        raise RuntimeError("no luck")

    def encode(self, x):
        return np.zeros((len(x), self.levels), dtype=np.int64)
"""
#: One of a person's own: it writes what it hears, and breaks where it is told to.
OWN = """
import json
from pathlib import Path
from sidbench.logger import Logger


class Own(Logger):
    "A logger of a test."

    name = "own"

    #: Where it raises.
    breaks: str = ""

    def opened(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hear("opened")

    def hear(self, what, *about):
        with (self.folder / "heard.jsonl").open("a") as f:
            f.write(json.dumps([what, *about]) + "\\n")
        if what == self.breaks:
            raise ValueError("no more paper")

    def started(self, row):
        self.hear("started", row.name, row.run, row.params["seed"])

    def numbers(self, row, stage, step, numbers):
        self.hear("numbers", row.name, stage, step, numbers)

    def finished(self, row, record):
        self.hear("finished", row.name, record.status)

    def closed(self):
        self.hear("closed")
"""


def heard(results: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (results / "logs" / "heard.jsonl").read_text().splitlines()]


def test_a_logger_of_ones_own_hears_all_in_order(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write("own", OWN)
    assert "own" in sidbench_cli("list", "loggers").out
    assert sidbench_cli("run", *ROWS, "--log", "own", "--results", tmp_path / "r").code == 0
    told = heard(tmp_path / "r")
    words = [t[0] for t in told if t[0] != "numbers"]
    assert words == ["opened", "started", "finished", "started", "finished", "closed"]
    numbers = [t for t in told if t[0] == "numbers"]
    assert {t[1] for t in numbers} == {"rq-vae + suffix"}
    stages = list(dict.fromkeys(t[2] for t in numbers))
    assert stages == ["fit", "train"]
    assert {k for t in numbers if t[2] == "train" for k in t[4]} == {
        "loss",
        "ndcg@10",
        "recall@10",
        "sequences/s",
    }


@pytest.mark.parametrize("breaks", ["started", "numbers", "finished", "closed"])
def test_a_logger_that_breaks_loses_no_row(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, breaks: str
) -> None:
    plugin_folder.write("own", OWN)
    rows = (*TINY, "--methods", "popularity,random", "--set", f"own.breaks={breaks}")
    said = sidbench_cli("run", *rows, "--log", "own", "--results", tmp_path / "r")
    assert said.code == 0
    until = "" if breaks == "closed" else " until the next row"
    note = f"note: --log own ends{until}, the rows go on: ValueError: no more paper"
    words = [t[0] for t in heard(tmp_path / "r")]
    assert said.out.count(note) == words.count(breaks)  # once a row, and each row begins anew
    assert words.count("started") == 2
    assert {r.status for r in records(tmp_path / "r").values()} == {"ok"}
    assert len(records(tmp_path / "r")) == 2
    assert words.count(breaks) == {"started": 2, "numbers": 1, "finished": 2, "closed": 1}[breaks]
    for place, word in enumerate(words):  # what has failed is closed, and hears no more of its row
        if word == breaks != "closed":
            assert words[place + 1] == "closed"
            assert words[place + 2 : place + 3] in ([], ["started"], ["closed"])


def test_a_logger_that_cannot_begin_is_told_before_anything_runs(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write("own", OWN)
    line = ("run", *ROWS, "--log", "own", "--set", "own.breaks=opened", "--results", tmp_path / "r")
    said = sidbench_cli(*line)
    assert said.code == 2
    assert "error: --log own cannot begin: ValueError: no more paper" in said.err
    assert not records(tmp_path / "r")


@pytest.mark.parametrize(
    ("name", "missing"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow and sqlalchemy and alembic")]
)
def test_a_missing_package_names_its_extra(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    monkeypatch.setattr(logger_module, "find_spec", lambda _: None)
    for dry in ((), ("--dry-run",)):
        said = sidbench_cli("run", *ROWS, "--log", name, "--results", tmp_path / "r", *dry)
        assert said.code == 2
        assert said.err == f"error: --log {name} needs {missing}: pip install 'sidbench[{name}]'\n"
    assert not (tmp_path / "r").exists()


def test_an_unknown_logger_says_the_nearest(sidbench_cli: Cli) -> None:
    said = sidbench_cli("run", *ROWS, "--log", "tensorbord")
    assert said.code == 2
    assert "unknown logger 'tensorbord'; did you mean 'tensorboard'" in said.err


def test_a_run_file_names_loggers_too(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text('log = ["tensorboard", "mlflow"]\n')
    assert read_settings(tmp_path / "runs.toml", {}, []).log == ["tensorboard", "mlflow"]
    assert read_settings(tmp_path / "runs.toml", {"log": "mlflow"}, []).log == ["mlflow"]


# ---------------------------------------------------------------------------------- the laws of callbacks


class Heard(Logger):
    name = "heard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.numbers_of: list[tuple[str, int, dict[str, float]]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def started(self, row: Row) -> None:
        self.threads.add(threading.get_ident())

    def numbers(self, row: Row, stage: str, step: int, numbers: dict[str, float]) -> None:
        self.gate.wait(30)
        self.numbers_of.append((stage, step, numbers))

    def finished(self, row: Row, record: RunRecord) -> None:
        self.threads.add(threading.get_ident())


@pytest.fixture
def made() -> plan.Plan:
    settings = read_settings(None, {"dataset": "synthetic:tiny", "methods": "random"}, [])
    return plan.make_plan(settings, dry=True)


OK = RunRecord("id", "ok", {}, "")


def told(made: plan.Plan, tmp_path: Path, reports: Callable[[Heard], None]) -> Heard:
    logger, warnings = Heard(), list[str]()
    with Callbacks([logger], made.bench, tmp_path, warnings.append) as callbacks:
        progress.report("train", 1, 2, loss=9.0)  # of a warm-up: no row runs
        callbacks.started(made.tasks[0])
        reports(logger)
        callbacks.finished(OK)
        progress.report("train", 1, 2, loss=9.0)
    assert not warnings
    return logger


def test_each_value_is_told_once_where_it_was_first_seen(made: plan.Plan, tmp_path: Path) -> None:
    def reports(_: Heard) -> None:
        for step in range(1, 21):
            numbers = {"loss": float(step // 5)}
            if step >= 10:
                numbers["ndcg@10"] = 0.5 if step < 20 else 0.75
            progress.report("train", step / 7, 3, step=step, **numbers)

    found = told(made, tmp_path, reports)
    by_name: dict[str, list[tuple[int, float]]] = {"loss": [], "ndcg@10": []}
    for stage, step, numbers in found.numbers_of:
        assert stage == "train"
        for key, value in numbers.items():
            by_name[key].append((step, value))
    assert by_name["loss"] == [(1, 0.0), (5, 1.0), (10, 2.0), (15, 3.0), (20, 4.0)]
    assert by_name["ndcg@10"] == [(10, 0.5), (20, 0.75)]
    assert len(found.threads) == 1
    assert threading.get_ident() not in found.threads


def test_what_comes_too_often_is_thinned_but_for_the_last_and_for_other_names(
    made: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks_module, "APART", 60.0)

    def reports(_: Heard) -> None:
        for step in range(1, 101):
            valid = {"ndcg@10": 0.25} if step >= 37 else {}
            progress.report("train", step, 100, loss=1 / step, **valid)
        progress.report("search", 0, 1)

    found = told(made, tmp_path, reports).numbers_of
    assert found == [
        ("train", 1, {"loss": 1.0}),
        ("train", 37, {"ndcg@10": 0.25}),
        ("train", 100, {"loss": 0.01}),
    ]


def test_a_validation_that_had_to_wait_keeps_its_step(
    made: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks_module, "APART", 1.0)
    moment = [0.0]
    monkeypatch.setattr(callbacks_module, "now", lambda: moment[0])

    def reports(_: Heard) -> None:
        for step, ndcg in enumerate((0.1, 0.2, 0.2, 0.2, 0.3), 1):
            progress.report("train", step, 5, **{"ndcg@10": ndcg})
            moment[0] += 0.4

    found = told(made, tmp_path, reports).numbers_of
    assert found == [
        ("train", 1, {"ndcg@10": 0.1}),
        ("train", 2, {"ndcg@10": 0.2}),
        ("train", 5, {"ndcg@10": 0.3}),
    ]


def test_a_slow_logger_keeps_no_row_waiting(made: plan.Plan, tmp_path: Path) -> None:
    passed: list[bool] = []

    def reports(logger: Heard) -> None:
        logger.gate.clear()
        for step in range(1000):
            progress.report("train", step, 1000, loss=float(step))
        passed.append(not logger.numbers_of)
        logger.gate.set()

    found = told(made, tmp_path, reports)
    assert passed == [True]
    assert [step for _, step, _ in found.numbers_of] == list(range(1000))


def test_a_logger_that_never_ends_is_left_behind(
    made: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks_module, "LAST_WORDS", 0.05)
    logger, warnings = Heard(), list[str]()
    logger.gate.clear()
    with Callbacks([logger], made.bench, tmp_path, warnings.append) as callbacks:
        callbacks.started(made.tasks[0])
        progress.report("train", 1, 2, loss=math.pi)
        callbacks.finished(OK)
    assert warnings == ["heard did not finish writing within 0 s; the rest is lost"]
    logger.gate.set()
    callbacks.thread.join(30)
