"""Several processes train as one would: the same batches, the same steps but for rounding; one decides."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from sidbench import checkpoints, progress, registry
from sidbench.decoder import Decoder
from sidbench.decoder import course as course_module
from sidbench.decoder import decoder as decoder_module
from sidbench.decoder import retrieval as retrieval_module
from sidbench.decoder.inputs import Windows
from sidbench.decoder.learner import Learner
from sidbench.decoder.retrieval import Retriever
from sidbench.decoder.training import Weights
from sidbench.errors import RanksError, SidbenchError
from sidbench.kit.ranks import Ranks, belonging
from sidbench.kit.together import _ending, _serve
from sidbench.protocol import Split, split
from sidbench.record import Store
from sidbench.sids import SIDs


@pytest.fixture(scope="module")
def world() -> tuple[SIDs, Split]:
    corpus = registry.load_dataset("synthetic:tiny", None)
    codes = np.random.default_rng(0).integers(0, 8, (len(corpus), 3)).astype(np.int32)
    return SIDs(codes, (8, 8, 8), corpus.item_ids), split(corpus, "leave-one-out")


def small(**changes: Any) -> Decoder:
    settings = {
        "width": 16, "heads": 2, "head_width": 8, "feed_forward": 16, "history": 4, "batch": 31, "steps": 20,
        "warmup": 5, "eval_every": 8, "valid_users": 40, "beam": 5, "learning_rate": 3e-3, "device": "cpu",
    }  # fmt: skip
    return Decoder(**{**settings, **changes})


class Meeting:
    """Where threads stand for processes: each brings something, all leave with what every one brought."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=60)
        self.brought: list[Any] = [None] * count

    def exchange(self, rank: int, what: Any) -> list[Any]:
        self.brought[rank] = what
        self.barrier.wait()
        found = list(self.brought)
        self.barrier.wait()
        return found


class Thread(Ranks):
    """A process of `Ranks` that is a thread; a broken meeting is a RuntimeError, as a cut connection is."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__(rank, len(meeting.brought))
        self.meeting = meeting

    def _shared(self, message: Any) -> Any:
        with self._reaching():
            return pickle.loads(self.meeting.exchange(self.rank, pickle.dumps(message))[0])

    def _first(self, word: Tensor) -> Tensor:
        with self._reaching():
            out: Tensor = self.meeting.exchange(self.rank, word)[0].clone()
            return out

    def _added(self, part: Tensor) -> Tensor:
        with self._reaching():
            return torch.stack(self.meeting.exchange(self.rank, part)).sum(0)


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[BaseException]]:
    """Inside, this thread is the first of so many; what the others raised is in the list afterwards."""
    meeting, failed, before = Meeting(count), [], torch.get_num_threads()

    def serve(rank: int) -> None:
        ranks = Thread(rank, meeting)
        try:
            with belonging(ranks):
                _serve(ranks)
        except BaseException as e:
            failed.append(e)
            meeting.barrier.abort()

    others = [threading.Thread(target=serve, args=(rank,)) for rank in range(1, count)]
    for other in others:
        other.start()
    first = Thread(0, meeting)
    try:
        with belonging(first), _ending(first):
            yield failed
    finally:
        for other in others:
            other.join(timeout=60)
        assert not any(other.is_alive() for other in others)
        torch.set_num_threads(before)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[tuple[str, str]]]:
    """By thread: the batch of each step, and the weights after it."""
    seen: dict[int, list[tuple[str, str]]] = {}
    batches: dict[int, str] = {}
    draw, apply = Windows.next, Weights.step

    def next_(self: Windows, count: int) -> Tensor:
        batch = draw(self, count)
        batches[threading.get_ident()] = str(batch.tolist())
        return batch

    def step(self: Weights, rate: float, gradient: Tensor) -> None:
        apply(self, rate, gradient)
        me = threading.get_ident()
        weights = hashlib.sha256(self.flat.numpy().tobytes()).hexdigest()
        seen.setdefault(me, []).append((batches[me], weights))

    monkeypatch.setattr(Windows, "next", next_)
    monkeypatch.setattr(Weights, "step", step)
    return seen


Trace = dict[int, list[tuple[str, str]]]


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (2, {"architecture": "causal"}),
        (3, {"architecture": "causal", "tokens": "codes", "precision": "bf16"}),
        (2, {"architecture": "tiger", "tokens": "codes", "user_tokens": 3}),
        (3, {"architecture": "tiger", "batch": 2}),  # one has nothing to do
    ],
    ids=str,
)
def test_several_take_the_steps_of_one(
    count: int, settings: dict[str, Any], world: tuple[SIDs, Split], trace: Trace
) -> None:
    decoder = small(**settings)
    alone = decoder.replace().fit(*world)
    (one,) = trace.values()
    trace.clear()
    with processes(count) as failed:
        together = decoder.replace().fit(*world)
    assert not failed
    assert len(trace) == count
    assert all(steps == trace[threading.get_ident()] for steps in trace.values())
    assert [batch for batch, _ in trace[threading.get_ident()]] == [batch for batch, _ in one]
    assert together.facts() == {**alone.facts(), "processes": count, "best_step": together.best_step_}
    close = 0.05 if decoder.precision == "bf16" else 2e-3
    np.testing.assert_allclose(together.curve_["loss"], alone.curve_["loss"], rtol=close)
    np.testing.assert_allclose(together.curve_["valid_loss"], alone.curve_["valid_loss"], rtol=close)


def test_the_first_alone_decides_when_a_budget_of_time_ends(
    world: tuple[SIDs, Split], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (course_module, decoder_module, retrieval_module):
        monkeypatch.setattr(module, "now", time.process_time)  # what else a machine does is no part of it
    with processes(2) as failed:
        for _ in range(2):
            decoder = small(budget=0.5, dropout=0.1).fit(*world)
    assert not failed
    assert decoder.steps_ > 2
    first, other = trace.values()
    assert first == other
    assert len(first) > decoder.steps_


@pytest.mark.parametrize("where", ["gradient", "validate", "loss"])
def test_an_error_of_the_first_ends_that_training_alone(
    where: str, world: tuple[SIDs, Split], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = threading.get_ident()

    def breaks(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def broken(*given: Any) -> Any:
            if where == name and threading.get_ident() == main and len(trace.get(main, ())) == 8:
                raise ValueError("as it happens")
            return work(*given)

        return broken

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "gradient", breaks("gradient", Learner.gradient))
        patch.setattr(Retriever, "validate", breaks("validate", Retriever.validate))
        with processes(2) as failed:
            if where == "loss":
                with pytest.raises(SidbenchError, match="the training loss is"):
                    small(learning_rate=1e30).fit(*world)
            else:
                with pytest.raises(ValueError, match="as it happens"):
                    small().fit(*world)
            trace.clear()
            where = ""
            assert small(steps=5).fit(*world).steps_ == 5
    assert not failed
    assert [len(steps) for steps in trace.values()] == [5, 5]


def test_a_process_that_ends_ends_the_others(
    world: tuple[SIDs, Split], trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, gradient = threading.get_ident(), Learner.gradient

    def ends(*given: Any) -> Tensor:
        if threading.get_ident() != main and len(trace.get(main, ())) == 3:
            raise MemoryError("as it happens")
        return gradient(*given)

    monkeypatch.setattr(Learner, "gradient", ends)
    with pytest.raises(RanksError, match="one has ended"), processes(2) as failed:
        small().fit(*world)
    assert [type(e) for e in failed] == [MemoryError]


def test_several_go_on_where_several_were_interrupted(
    world: tuple[SIDs, Split], trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course_module, "CHECKPOINT_SECONDS", 0.0)
    decoder = small(dropout=0.1)
    with processes(2):
        whole = decoder.replace().fit(*world)
    expected = trace[threading.get_ident()][8:]
    trace.clear()

    def cut(stage: str, done: float, *_: Any) -> None:
        if stage == "train" and done == 13:
            raise KeyboardInterrupt

    with (
        checkpoints.kept_in(tmp_path),
        progress.listening(cut),
        pytest.raises(KeyboardInterrupt),
        processes(2),
    ):
        decoder.replace().fit(*world)
    trace.clear()
    with checkpoints.kept_in(tmp_path), processes(2) as failed:
        resumed = decoder.replace().fit(*world)
    assert not failed
    assert all(steps == expected for steps in trace.values())
    assert resumed.curve_ == whole.curve_
    assert resumed.facts() == whole.facts()


@pytest.mark.parametrize("at", range(8))
def test_an_interruption_inside_any_exchange_leaves_all_exchanges_paired(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    said: list[str] = []

    def exchange(kind: str) -> Callable[..., None]:
        def exchanged(*_: Any, **__: Any) -> None:
            said.append(kind)
            if len(said) == at + 1:  # its handler runs as the exchange returns, which is then done
                signal.raise_signal(signal.SIGINT)

        return exchanged

    for name, kind in (("broadcast_object_list", "work"), ("broadcast", "word"), ("all_reduce", "sum")):
        monkeypatch.setattr(dist, name, exchange(kind))
    ranks, gradient, before = Ranks(0, 2), torch.zeros(4), signal.getsignal(signal.SIGINT)

    def train() -> None:
        with ranks.leading("training"):
            for step in range(2):
                ranks.go(0.1, step)
                ranks.sum(gradient, torch.zeros(()))

    with pytest.raises(KeyboardInterrupt):
        train()
    whole = ["work", *["word", "word", "sum"] * 2, "word"]
    done = at + 2 if whole[at : at + 2] == ["word", "sum"] else at + 1
    assert said == (whole if at == 7 else [*whole[:done], "word"])
    assert signal.getsignal(signal.SIGINT) is before


def test_one_process_says_nothing_to_anybody() -> None:
    alone = Ranks()
    gradient, loss = torch.ones(3), torch.ones(())
    alone.send("anything")
    with alone.leading("training"):
        alone.go(0.1, 0)
        assert alone.sum(gradient, loss) == [gradient, loss]
    assert alone.device(torch.device("cuda")) == torch.device("cuda")
    assert Ranks(1, 2, 1).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert Ranks(1, 2, 1).device(torch.device("cpu")) == torch.device("cpu")


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.timeout(300)
def test_a_process_that_is_killed_is_noticed_at_once(tmp_path: Path) -> None:
    """Over real connections, and with nobody but the connection to tell of it."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        import numpy as np
        from sidbench import registry
        from sidbench.decoder import Decoder
        from sidbench.decoder import learner
        from sidbench.kit.together import joined
        from sidbench.protocol import split
        from sidbench.sids import SIDs

        if os.environ["RANK"] == "1":
            gradient = learner.Learner.gradient
            def killed(self, batch, step, *more):
                if step == 3:
                    os._exit(9)
                return gradient(self, batch, step, *more)
            learner.Learner.gradient = killed
        with joined("cpu") as first:
            if first:
                corpus = registry.load_dataset("synthetic:tiny", None)
                sids = SIDs(np.zeros((len(corpus), 1), np.int32), (2,), corpus.item_ids)
                Decoder(width=8, history=2, batch=8, device="cpu").fit(sids, split(corpus, "leave-one-out"))
        """)
    )
    given = environment(
        TORCHELASTIC_RUN_ID="here", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()
    )
    start = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**given, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [p.communicate(timeout=250)[1] for p in start]
    finally:
        for p in start:
            p.kill()
    assert [p.returncode for p in start] == [1, 9], said
    assert "process 0 of 2 cannot reach the others: one has ended" in said[0]


@pytest.mark.timeout(300)
def test_torchrun_runs_a_benchmark(tmp_path: Path) -> None:
    line = (
        "run --dataset synthetic:tiny --threads 1 --methods random,rq-vae,popularity --set decoder.width=8 "
        "--set all.codebook_size=8 --set rq-vae.epochs=1 --set rq-vae.hidden=[8] --set rq-vae.latent=4 "
        "--set decoder.history=4 --set decoder.batch=32 --set decoder.steps=4 --set decoder.eval_every=2"
    )
    at = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *at]
    done = subprocess.run(
        [*launched, "-m", "sidbench", *line.split()],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall("✓ random", done.stdout)) == 1
    records = {r.label: r for _, r in Store(tmp_path / "results").all() if not isinstance(r, Exception)}
    assert set(records) == {"random", "rq-vae", "popularity"}
    assert all(r.status == "ok" and r.key["hardware"]["processes"] == 2 for r in records.values())
    assert records["random"].facts["decoder"]["processes"] == 2
    assert records["rq-vae"].facts["processes"] == 2
