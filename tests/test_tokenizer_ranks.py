"""Two processes learn what one does, up to the order of sums; what ends between goes on with any number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from typer.testing import CliRunner
from typing_extensions import Self

from sidbench import checkpoints, progress, registry
from sidbench.cli import app
from sidbench.dataset import Embeddings
from sidbench.errors import RanksError, SidbenchError, UsageError
from sidbench.kit import loop, network
from sidbench.kit.model import Model
from sidbench.kit.ranks import Ranks, belonging
from sidbench.kit.shares import Share, taking
from sidbench.kit.training import Trained
from sidbench.kit.vq import ResidualVQ
from sidbench.sids import Codes
from sidbench.tokenizer import Tokenizer

#: 93 rows in batches of 31: no two shares of a batch are alike.
X = np.random.default_rng(0).normal(size=(93, 6)).astype(np.float32)

SMALL: dict[str, Any] = {
    "levels": 2, "codebook_size": 8, "batch_size": 31, "epochs": 4, "check_every": 1, "device": "cpu",
}  # fmt: skip
CODER: dict[str, Any] = {**SMALL, "hidden": (12,), "lr": 1e-2, "revive": 0.5, "precision": "fp32"}
VAE: dict[str, Any] = {**CODER, "latent": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "straight-through": ("rq-vae", VAE),
    "rotation": ("rq-vae", {**VAE, "estimator": "rotation", "dropout": 0.2}),
    # Adam would make steps of the rounding that is all the gradient of a bias before a norm.
    "batch norm": ("rq-vae", {**VAE, "batch_norm": True, "optimizer": "sgd", "lr": 3e-3}),
    "ema": ("rq-vae", {**VAE, "update": "ema", "decay": 0.9, "dropout": 0.2, "select": "loss"}),
    "ema, shared": ("rq-vae", {**VAE, "update": "ema", "shared": True, "distance": "cosine"}),
    "sinkhorn": ("rq-vae", {**VAE, "sinkhorn": (0.05, 0.0), "sinkhorn_iters": 5}),
    "gumbel": ("rq-vae", {**VAE, "estimator": "gumbel", "normalize_residuals": True}),
    "simvq": ("rq-vae", {**VAE, "simvq": True, "optimizer": "sgd"}),
    "bf16": ("rq-vae", {**VAE, "precision": "bf16", "batch_norm": True}),
    "frozen": ("rq-kmeans-plus", {**CODER, "freeze": "codebooks", "update": "ema"}),
    "fsq": ("fsq", {**SMALL, "hidden": (12,), "optimizer": "sgd"}),
    "rvq-ema": ("rvq-ema", {**SMALL, "revive": 0.5}),
}

OTHER = """
from sidbench.kit.together import joined
with joined("cpu") as first:
    assert not first
"""
#: Ends without a word, in the fifth step.
DIES = """
import os
from sidbench.kit.stepper import Steps
take = Steps.take
def dies(self, step, rows):
    if step == 4:
        os._exit(9)
    return take(self, step, rows)
Steps.take = dies
"""


def make(name: str, params: dict[str, Any]) -> Tokenizer:
    made: Tokenizer = registry.find("tokenizer", name)(**params)
    return made


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Something happens after every epoch; and no threads that wait for each other at small operations."""
    with every_epoch():
        yield


@contextmanager
def every_epoch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PAUSE", 1)
        yield
    torch.set_num_threads(threads)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def settings(*of: str) -> list[str]:
    return [word for one in of for word in ("--set", f"rq-vae.{one}")]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def two(script: str = OTHER) -> Iterator[tuple[Ranks, subprocess.Popen[str]]]:
    """Inside, this process can be the first of two over real connections; the second is what it gives too."""
    port = free_port()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    given = environment(TORCHELASTIC_RUN_ID="here", WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", **where)
    other = subprocess.Popen([sys.executable, "-c", script], env=given, stderr=subprocess.PIPE, text=True)
    try:
        at = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", at, timedelta(seconds=120), world_size=2, rank=0)
        team = Ranks(0, 2)
        try:
            yield team, other
            if other.poll() is None:
                team.send(None)
                assert other.wait(60) == 0, other.communicate()[1]
        finally:
            dist.destroy_process_group()
    finally:
        other.kill()
        other.communicate()


def alike(one: Tokenizer, other: Tokenizer, close: float = 2e-3) -> None:
    """They learned the same, but for the order of sums."""
    for name, values in one.curves().items():
        np.testing.assert_allclose(other.curves()[name], values, rtol=close, atol=close, err_msg=name)
    codes = one.encode(X)
    np.testing.assert_array_equal(other.encode(X), codes)
    np.testing.assert_allclose(other.reconstruct(codes), one.reconstruct(codes), rtol=close, atol=close)


# These two first, as what follows keeps a second process of its own to the end.
@pytest.mark.timeout(300)
def test_what_a_killed_process_leaves_goes_on_with_another_number_of_them(tmp_path: Path) -> None:
    params = {**VAE, "checkpoint_every": 0.0, "dropout": 0.2}
    with two(DIES + OTHER) as (team, other), belonging(team), checkpoints.kept_in(tmp_path):
        with pytest.raises(RanksError, match="one has ended"):
            make("rq-vae", params).fit(X)
        assert other.wait(60) == 9
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000001"]
    with checkpoints.kept_in(tmp_path):
        resumed = make("rq-vae", params).fit(X)
    alike(make("rq-vae", params).fit(X), resumed)


@pytest.mark.timeout(300)
def test_a_fit_of_two_leaves_what_a_fit_of_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "items.npy", X)
    asked = settings("levels=2", "codebook_size=8", "batch_size=31", "epochs=3", "hidden=[12]", "latent=4")
    line = ["fit", "rq-vae", "items.npy", "--out", "model", "--json", "--device", "cpu", *asked]
    as_torchrun_does = {"TORCHELASTIC_RUN_ID": "here", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    as_torchrun_does["MASTER_PORT"] = str(free_port())
    monkeypatch.chdir(tmp_path)
    for name, value in {**as_torchrun_does, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sidbench.kit.together.PATIENCE", timedelta(seconds=120))
    given = environment(**as_torchrun_does, RANK="1", LOCAL_RANK="1")
    words = [sys.executable, "-m", "sidbench", *line]
    other = subprocess.Popen(words, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        done = CliRunner().invoke(app, line)
        said = other.communicate(timeout=120)[0]
    finally:
        other.kill()
    assert (done.exit_code, other.returncode, said) == (0, 0, ""), done.output
    assert json.loads(done.stdout)["facts"]["processes"] == 2
    params = {"levels": 2, "codebook_size": 8, "batch_size": 31, "epochs": 3, "hidden": (12,), "latent": 4}
    one = make("rq-vae", {**params, "device": "cpu"}).fit(X)
    np.testing.assert_array_equal(one.encode(X), registry.load_tokenizer(tmp_path / "model").encode(X))


@pytest.fixture(scope="module")
def pair() -> Iterator[Ranks]:
    """This process as the first of two, for all tests that leave the other alive."""
    with two() as (team, _):
        yield team


@pytest.fixture(scope="module")
def together(pair: Ranks) -> dict[str, Tokenizer]:
    """Every case, fitted by two processes one after the other."""
    with every_epoch(), belonging(pair):
        return {case: make(*of).fit(X) for case, of in CASES.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(case: str, together: dict[str, Tokenizer]) -> None:
    one, other = make(*CASES[case]).fit(X), together[case]
    if case == "bf16":  # one rounding to bfloat16 may fall on either side
        for name in ("loss", "reconstruction"):
            np.testing.assert_allclose(other.curves()[name], one.curves()[name], rtol=0.05)
    else:
        alike(one, other)
    same = {**one.facts(), "processes": 2}
    same["chosen"] = {k: pytest.approx(v) if k == "value" else v for k, v in same["chosen"].items()}
    assert other.facts() == same


@pytest.mark.timeout(300)
def test_whatever_ends_the_first_the_other_is_there_for_what_follows(
    pair: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {**VAE, "checkpoint_every": 0.0, "update": "ema"}
    whole = make("rq-vae", params).fit(X)
    count, calls = ResidualVQ._count, []

    def amid(error: BaseException) -> Callable[..., None]:
        def counted(self: ResidualVQ, seen: Any) -> None:
            calls.append(len(seen))
            if len(calls) == 5:  # in the second epoch since the last start, before the step's first exchange
                raise error
            count(self, seen)

        calls.clear()
        return counted

    def between(stage: str, done: float, *_: Any) -> None:
        if done == 9:
            raise KeyboardInterrupt

    ends: list[tuple[BaseException, type[BaseException], str]] = [
        (KeyboardInterrupt("as it happens"), KeyboardInterrupt, "as it happens"),
        (torch.OutOfMemoryError("as it happens"), UsageError, "out of memory on cpu at batch_size = 31"),
    ]
    with belonging(pair), checkpoints.kept_in(tmp_path):
        for error, raised, said in ends:
            with monkeypatch.context() as patch:
                patch.setattr(ResidualVQ, "_count", amid(error))
                with pytest.raises(raised, match=said):
                    make("rq-vae", params).fit(X)
        with progress.listening(between), pytest.raises(KeyboardInterrupt):
            make("rq-vae", params).fit(X)
        with checkpoints.kept_in(tmp_path / "other"), pytest.raises(SidbenchError, match="training broke"):
            make("rq-vae", {**VAE, "lr": 1e30, "clip": 0.0}).fit(X)
        alike(whole, make("rq-vae", params).fit(X))


def torchrun(count: int, folder: Path, device: str, sets: list[str]) -> dict[str, Any]:
    """What so many processes leave of a fit to the folder's items."""
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    at = ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "sidbench"]
    line = ["fit", "rq-vae", "items.npy", "--out", f"by-{count}", "--json", "--device", device]
    done = subprocess.run(
        [*launched, *at, *line, *settings(*sets)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    held: dict[str, Any] = json.loads(done.stdout)
    return held


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.timeout(600)
def test_two_gpus_fit_what_one_does(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4097, 64)).astype(np.float32)
    np.save(tmp_path / "items.npy", rows)
    sets = ["codebook_size=32", "batch_size=1025", "epochs=3", "precision=fp32"]
    one, two = (torchrun(count, tmp_path, "cuda", sets) for count in (1, 2))
    assert two["facts"]["processes"] == 2
    assert two["error"]["fitted"] == pytest.approx(one["error"]["fitted"], rel=1e-2)


class Lone(Model):
    """Says nothing of shares."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = torch.nn.Parameter(torch.zeros(X.shape[1]))

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        return {"loss": (x - self.middle).square().mean()}

    def codes(self, x: Tensor) -> Tensor:
        return (x[:, :2] > self.middle[:2]).long()


class Alone(Trained):
    """Trained by the first process whatever the others do."""

    name = "alone"

    def fit(self, x: Embeddings) -> Self:
        model = Lone()
        self.train(model, x)
        self.middle_ = model.middle.detach().numpy()
        return self

    def encode(self, x: Embeddings) -> Codes:
        return np.asarray(x[:, :2] > self.middle_[:2], dtype=np.int32)


def test_a_model_that_says_nothing_of_shares_is_trained_by_the_first_alone() -> None:
    params: dict[str, Any] = {"levels": 2, "codebook_size": 2, "epochs": 2, "device": "cpu"}
    with belonging(Ranks(0, 2)):  # nobody would answer
        fitted = Alone(**params).fit(X)
    assert fitted.facts() == Alone(**params).fit(X).facts()


def test_a_batch_with_fewer_rows_than_processes_is_refused_before_anything_is_said() -> None:
    tokenizer = make("rq-vae", {**VAE, "batch_size": 1})
    with belonging(Ranks(0, 2)), pytest.raises(UsageError, match="1 rows cannot be shared by 2 processes"):
        tokenizer.fit(X)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_the_batch_cut(count: int) -> None:
    batch = torch.arange(5)
    of = [Share(Ranks(rank, count), len(batch)) for rank in range(count)]
    assert torch.equal(torch.cat([share.mine(batch) for share in of]), batch)
    assert sum(share.weight for share in of) == pytest.approx(1)
    assert max(share.stop - share.start for share in of) == of[0].longest


def test_one_process_asks_nobody() -> None:
    share, x = Share(Ranks(), 5), torch.randn(5, 2, requires_grad=True)
    for asked in (share.deal(0, x), share.summed(x), share.whole(x), share.mine(x), share.sum(x)[0]):
        assert asked is x
    assert share.drawn(5, torch.ones).shape == (5,)
    assert share.of(3) == 3


class Echo(Ranks):
    """The first of two whose other has rows of the same sums."""

    def sum(self, *parts: Tensor) -> list[Tensor]:
        return [2 * part for part in parts]


def test_a_batch_of_two_equal_shares_is_normalised_as_one() -> None:
    rows = torch.randn(7, 3)
    ours, theirs = network.BatchNorm(3), torch.nn.BatchNorm1d(3)
    with taking(Share(Echo(0, 2), 14)):
        out = ours(rows)
    torch.testing.assert_close(torch.cat([out, out]), theirs(torch.cat([rows, rows])))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
