"""Pieces of work elsewhere: the same records and SIDs as in this process, whatever dies meanwhile.

Most of it needs no Ray: an engine that sends everything through pickle stands in for a cluster.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import sidbench
from sidbench import matrix, plan
from sidbench.catalogue.encode import encode
from sidbench.catalogue.job import Source
from sidbench.catalogue.spread import needs, spread
from sidbench.cli import main
from sidbench.display import Several
from sidbench.engines import Engine, Local, Lost, Needs, Work, cluster, opened
from sidbench.errors import StorageError, UsageError
from sidbench.matrix import Done, run_plan
from sidbench.record import RunRecord
from sidbench.settings import read_settings

PACKAGE = Path(sidbench.__file__).parent


class Apart(Engine):
    """What a cluster does, in this process: last piece first, nothing shared but by pickle."""

    def __init__(self, dying: Iterable[int] = ()) -> None:
        self.dying = set(dying)
        self.asked: list[Needs] = []

    def device(self, asked: str) -> str:
        return "cpu"

    def threads(self, asked: int) -> int:
        return asked or 1

    def each(
        self,
        work: Work,
        shared: Any,
        todo: Iterable[int],
        needs: Needs,
        folder: Path,
        started: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        self.asked.append(needs)
        for i in reversed(list(todo)):
            if i in self.dying:
                self.dying.remove(i)
                yield i, Lost("its worker died 4 times")
            else:
                again = pickle.loads(pickle.dumps((work, shared)))
                yield i, pickle.loads(pickle.dumps(again[0](again[1], i)))

    def said(self, needs: Needs) -> str:
        return "apart"


def settings(results: Path, **given: str) -> Any:
    asked = {"methods": "popularity,random,lsh", "dataset": "synthetic:tiny", "threads": 1}
    sets = ["decoder.steps=2", "decoder.beam=10"]
    return read_settings(None, {**asked, "results": str(results), **given}, sets)


def ran(engine: Engine, results: Path, **given: str) -> tuple[list[dict[str, Any]], list[Done]]:
    """The rows of a run in their order, without what was measured; and as they were told."""
    made = plan.make_plan(settings(results, **given), engine=engine)
    told: list[Done] = []
    records = run_plan(made, engine, lambda i, task: None, lambda i, task, done: told.append(done), "test")
    return [{**asdict(r), "measured": {}} for r in records], told


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ran(Local(), tmp_path_factory.mktemp("here"))[0]


def test_rows_elsewhere_are_those_of_here_in_the_same_order(
    here: list[dict[str, Any]], tmp_path: Path
) -> None:
    engine = Apart()
    there, told = ran(engine, tmp_path)
    assert there == here
    assert all(row["status"] == "ok" for row in here)
    assert engine.asked == [Needs(1, 0)]
    assert [d.record.id for d in told] == [row["id"] for row in reversed(here)]
    again, told = ran(Apart(), tmp_path)
    assert again == here
    assert all(d.reused for d in told)


def test_a_row_that_a_dead_worker_had_finished_is_not_run_again(tmp_path: Path) -> None:
    engine = Apart()
    made = plan.make_plan(settings(tmp_path, methods="popularity"), engine=engine)
    run_plan(made, engine, lambda i, task: None, lambda i, task, done: None, "test")
    told: list[Done] = []
    run_plan(made, engine, lambda i, task: None, lambda i, task, done: told.append(done), "test")
    assert [d.reused for d in told] == [True]


def test_a_row_whose_worker_always_dies_is_a_failed_row_and_the_others_stand(
    here: list[dict[str, Any]], tmp_path: Path
) -> None:
    there, _ = ran(Apart(dying=[1]), tmp_path)
    assert [row["status"] for row in there] == ["ok", "failed", *["ok"] * (len(here) - 2)]
    assert there[1]["id"] == here[1]["id"]
    assert there[1]["error"]["stage"] == "worker"
    assert ran(Apart(), tmp_path)[0] == here  # the same command makes it good


def test_who_has_no_gpu_plans_for_those_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Apart, "device", lambda engine, asked: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = plan.make_plan(settings(tmp_path, methods="popularity,lsh"), engine=Apart())
    assert made.done == {}
    assert matrix.needs(made.bench) == Needs(1, 1)


def test_what_a_person_sees_of_rows_that_run_elsewhere(tmp_path: Path) -> None:
    made = plan.make_plan(settings(tmp_path, methods="popularity,lsh", seeds="0,1"), engine=Apart())
    console = Console(file=io.StringIO(), width=80, color_system=None)
    record = RunRecord("id", "ok", {}, "", metrics={"recall@10": 0.0712})
    with Several(console, made.tasks) as display:
        display.started(0, made.tasks[0])
        display.finished(2, made.tasks[2], record, False, 12.0)
        with console.capture() as live:
            console.print(display)
        assert live.get().startswith("1 of 3 rows done")
        for i in (0, 1):
            display.finished(i, made.tasks[i], record, False, 12.0)
        with console.capture() as live:
            console.print(display)
        assert not live.get().strip()
    assert isinstance(console.file, io.StringIO)
    assert "lsh + suffix seed 1" in console.file.getvalue().splitlines()[0]
    assert "12.0 s" in console.file.getvalue()


def test_a_node_with_other_code_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Apart()
    made = plan.make_plan(settings(tmp_path, methods="popularity"), engine=engine)
    own = type(made.tasks[0]).code
    answers = iter(["planned", "there"])
    monkeypatch.setattr(type(made.tasks[0]), "code", lambda task: next(answers, own(task)))
    with pytest.raises(UsageError, match="same version of sidbench and of its plugins on every node"):
        run_plan(made, engine, lambda i, task: None, lambda i, task, done: None, "test")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """A fitted tokenizer, and rows to encode."""
    folder = tmp_path_factory.mktemp("catalogue")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32))
    made = sidbench.registry.tokenizers()["lsh"](codebook_size=4, levels=3)
    made.fit(np.load(folder / "x.npy", allow_pickle=False)).save(folder / "model")
    return folder / "model", Source(str(folder / "x.npy"))


def test_shards_elsewhere_are_those_of_here_byte_for_byte(model: tuple[Path, Source], tmp_path: Path) -> None:
    engine = Apart()
    asked = needs(engine, "auto", 0)
    encode(*model, tmp_path / "here", shard_rows=90)
    encode(*model, tmp_path / "there", shard_rows=90, run=spread(engine, "auto", asked))
    assert asked == Needs(1, 0)
    shards = sorted(p.name for p in (tmp_path / "here").glob("*.parquet"))
    assert len(shards) == 12
    for name in shards:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_a_shard_that_is_lost_leaves_the_others_and_is_done_by_the_same_command(
    model: tuple[Path, Source], tmp_path: Path
) -> None:
    engine = Apart(dying=[3, 7])
    asked = Needs(1)
    with pytest.raises(StorageError, match=r"2 of 12 shards are not done, the first of them sids-00003"):
        encode(*model, tmp_path / "out", shard_rows=90, run=spread(engine, "auto", asked))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 10
    done = encode(*model, tmp_path / "out", shard_rows=90, run=spread(engine, "auto", asked))
    assert done.rows == 180


def test_a_folder_that_is_not_the_same_one_is_found_out(tmp_path: Path) -> None:
    home = Path.cwd()
    with cluster.Mark.laid(tmp_path / "results") as mark:
        mark.check("here")
        for other in (replace(mark, token="other"), replace(mark, path=tmp_path / "elsewhere" / "mark")):
            with pytest.raises(StorageError, match=r"10\.0\.0\.7 does not see .* share under one path"):
                other.check("10.0.0.7")
    assert Path.cwd() == home
    assert not list((tmp_path / "results").iterdir())


def test_without_the_extra_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--engine", "ray", "--methods", "popularity", "--dataset", "synthetic:tiny"])
    assert "pip install 'sidbench[ray]'" in " ".join(capsys.readouterr().err.split())


def test_an_address_without_ray_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="goes with --engine ray"), opened("local", "10.0.0.1:6379"):
        pass
    with pytest.raises(UsageError, match=r"unknown engine 'rai'; did you mean 'ray'\?"), opened("rai"):
        pass


@pytest.mark.parametrize("address", ["nonsense", "ray://10.0.0.1:10001", "10.0.0.1:x", ":6379"])
def test_an_address_that_is_none_is_found_out_before_ray_is(address: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT as `ray start --head` printed it, or auto"):
        cluster._answers(address)


def test_an_address_where_nobody_listens_is_an_error_at_once() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(UsageError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        cluster._answers(f"127.0.0.1:{port}")


def test_ray_is_imported_where_it_is_asked_for_and_nowhere_else() -> None:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        named = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert "ray" not in {a.name.partition(".")[0] for n in named for a in n.names}, path


# With Ray itself: two nodes on this machine, one killed.

SLOW = '''
"""Signs of numbers, slowly: there is time to kill somebody."""
import time
import numpy as np
from sidbench.tokenizer import Tokenizer


class SlowSigns(Tokenizer):
    name = "slow-signs"

    def fit(self, x):
        self.mean_ = x.mean(axis=0)
        return self

    def encode(self, x):
        time.sleep(0.3)
        return (x[:, : self.levels] > self.mean_[: self.levels]).astype(np.int32)
'''
NODE = ["--num-cpus=1", "--object-store-memory=100000000", "--block"]


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, by their parents."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def started(pid: int) -> str:
    """When a process began: its number may be another's by now."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


@contextmanager
def two_nodes(env: dict[str, str]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Ray cluster of two nodes on loopback; every process of it is ended by its number."""
    ray = Path(sys.executable).with_name("ray")
    with socket.socket() as s:
        s.bind(("127.0.0.2", 0))
        address = f"127.0.0.2:{s.getsockname()[1]}"
    nodes: list[subprocess.Popen[bytes]] = []
    born: dict[int, str] = {}
    # Sockets have short names only: not below pytest's folder.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:

        def start(ip: str, *how: str) -> None:
            command = [str(ray), "start", f"--node-ip-address={ip}", *how, *NODE]
            said = Path(folder, f"{ip}.txt")
            with said.open("wb") as out:
                nodes.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
            until(lambda: "Ray runtime started" in said.read_text() or nodes[-1].poll() is not None)
            assert nodes[-1].poll() is None, said.read_text()

        try:
            start("127.0.0.2", "--head", f"--port={address.rpartition(':')[2]}", f"--temp-dir={folder}",
                  "--include-dashboard=false")  # fmt: skip
            start("127.0.0.3", f"--address={address}")
            yield address, nodes
        finally:
            for node in nodes:
                born |= {pid: started(pid) for pid in descendants(node.pid)}
            for pid, when in born.items():
                if when and started(pid) == when:
                    os.kill(pid, signal.SIGKILL)
            for node in nodes:
                node.wait()


def until(true: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'sidbench[ray]'")
@pytest.mark.skipif(sys.platform != "linux", reason="two nodes on one machine need 127.0.0.2 and /proc")
def test_a_node_is_killed_and_every_shard_is_there_as_without_ray(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow_signs.py").write_text(SLOW)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32))
    env = {
        **os.environ,
        "SIDBENCH_PLUGIN_PATH": str(tmp_path / "plugins"),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        # A node is missed after two seconds instead of half a minute.
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    tool = [str(Path(sys.executable).with_name("sidbench"))]
    subprocess.run([*tool, "fit", "slow-signs", "x.npy", "--out", "model"], cwd=tmp_path, env=env, check=True)
    shards = ["encode", "model", "x.npy", "--shard-rows", "100", "--json"]
    subprocess.run([*tool, *shards, "--out", "here"], cwd=tmp_path, env=env, check=True)
    with two_nodes(env) as (address, nodes):
        begun = subprocess.Popen(
            [*tool, *shards, "--out", "there", "--engine", "ray", "--address", address],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        family: dict[int, str] = {}
        try:
            until(lambda: len(list((tmp_path / "there").glob("*.parquet"))) >= 3 or begun.poll() is not None)
            family = {pid: started(pid) for pid in descendants(nodes[1].pid)}
            raylet = [pid for pid in family if "raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_text()]
            os.kill(raylet[0], signal.SIGKILL)
            said, notes = begun.communicate(timeout=300)
        finally:
            begun.kill()
            begun.communicate()
            for pid, when in family.items():
                if when and started(pid) == when:
                    os.kill(pid, signal.SIGKILL)
    assert begun.returncode == 0, notes
    assert json.loads(said)["encoded"] == 2000
    assert "127.0.0.3 has died" in notes
    names = sorted(p.name for p in (tmp_path / "here").glob("*.parquet"))
    assert len(names) == 20
    assert names == sorted(p.name for p in (tmp_path / "there").glob("*.parquet"))
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
