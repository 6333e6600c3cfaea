"""Cold start: nothing that is fitted or trained knows a cold item; then it gets a SID and can be found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench import registry
from sidbench.bench import refuse, run_one
from sidbench.dataset import Corpus, Sequences, cached_rows
from sidbench.decoder import Decoder
from sidbench.errors import UsageError
from sidbench.protocol import ColdStart, leave_one_out, split
from sidbench.record import RunRecord, Store
from sidbench.resolve.keep import Keep
from sidbench.resolve.suffix import Suffix
from sidbench.resolver import Resolver
from sidbench.sids import SIDs
from sidbench.task import Bench, Task
from tests.conftest import Said

ITEMS, USERS, CLUSTERS = 60, 150, 6
SMALL = {"levels": 2, "codebook_size": 8, "device": "cpu"}


def world() -> Corpus:
    """Items in clusters; a user stays in one, so that content alone finds what is new."""
    rng = np.random.default_rng(0)
    cluster = np.arange(ITEMS) % CLUSTERS
    x = np.eye(CLUSTERS, 8)[cluster] + 0.1 * rng.standard_normal((ITEMS, 8))
    rows = [rng.choice(np.flatnonzero(cluster == u % CLUSTERS), 6, replace=False) for u in range(USERS)]
    return Corpus(
        name="world",
        embeddings=x.astype(np.float32),
        item_ids=np.array([f"item {i}" for i in range(ITEMS)]),
        sequences=Sequences.of(rows),
        user_ids=np.arange(USERS),
        times=np.sort(rng.integers(0, 10**6, (USERS, 6)), axis=1).reshape(-1),
    )


COLD = ColdStart(share=0.15).split(world()).cold


def bench(corpus: Corpus, protocol: str = "cold-start", **changes: Any) -> Bench:
    values = {"share": 0.15} if protocol == "cold-start" else {}
    made = Bench(corpus, split(corpus, protocol, values), (1, 10), "keep", "cpu", 1)
    return replace(made, **changes)


def task(name: str, resolver: Resolver | None = None, **params: Any) -> Task:
    if name in registry.references():
        return Task(name, registry.find("reference", name)(**params), 0)
    decoder = Decoder(width=16, head_width=8, feed_forward=32, steps=30, eval_every=10, warmup=5, beam=10)
    return Task(name, registry.find("tokenizer", name)(**{**SMALL, **params}), 0, resolver or Keep(), decoder)


@dataclass(frozen=True)
class Ran:
    """A row that ran, what it left and what its decoder had learned."""

    record: RunRecord
    folder: Path
    weights: list[dict[str, torch.Tensor]]

    @property
    def sids(self) -> SIDs:
        return SIDs.load(self.folder)

    @property
    def vectors(self) -> dict[str, Any]:
        return Store(self.folder.parents[3]).vectors(self.record)

    @property
    def tokenizer(self) -> bytes:
        return (self.folder / "tokenizer.safetensors").read_bytes()


Runs = Callable[..., Ran]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Run a row and keep the weights of its decoder."""
    weights: list[dict[str, torch.Tensor]] = []
    plain = Decoder.fit

    def fit(self: Decoder, *given: Any) -> Decoder:
        out = plain(self, *given)
        weights.append({k: v.clone() for k, v in out.model_.state_dict().items()})
        return out

    monkeypatch.setattr(Decoder, "fit", fit)

    def run(row: Task, made: Bench, name: str = "one") -> Ran:
        store = Store(tmp_path / name)
        store.check_writable()
        weights.clear()
        record = run_one(row, made, store, {})
        assert record.status == "ok", record.error
        return Ran(record, store.artifact(record.key), list(weights))

    return run


def other_vectors() -> Corpus:
    """The same world, but every cold item looks like something else."""
    x = world().embeddings.copy()
    x[COLD] = np.roll(x[COLD], 3, axis=1)
    return replace(world(), embeddings=x, fingerprint="")


def other_interactions() -> Corpus:
    """The same world, but where there was one cold item there is another."""
    renamed = np.arange(ITEMS, dtype=np.int32)
    renamed[COLD] = np.roll(COLD, 1)
    s = world().sequences
    return replace(world(), sequences=Sequences(renamed[s.items], s.offsets), fingerprint="")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("rq-kmeans", other_vectors),
        ("rq-kmeans", other_interactions),
        ("rq-kmeans-balanced", other_vectors),
    ],
)
def test_what_a_cold_item_is_changes_nothing_that_was_learned(
    runs: Runs, name: str, other: Callable[[], Corpus]
) -> None:
    one, two = runs(task(name), bench(world()), "one"), runs(task(name), bench(other()), "two")
    assert one.tokenizer == two.tokenizer
    warm = np.setdiff1d(np.arange(ITEMS), COLD)
    assert (one.sids.codes[warm] == two.sids.codes[warm]).all()
    (a,), (b,) = one.weights, two.weights
    assert all(torch.equal(a[key], b[key]) for key in a)
    # Nor which weights are kept: no cold item stands before a warm one while learning.
    assert one.vectors["curve_valid_ndcg@10"].tolist() == two.vectors["curve_valid_ndcg@10"].tolist()
    # It is no empty law: what comes after is another.
    if other is other_vectors:
        assert (one.sids.codes[COLD] != two.sids.codes[COLD]).any()
    assert one.record.levels["recall_decile@10"] != two.record.levels["recall_decile@10"]


@pytest.mark.parametrize("name", ["rq-kmeans-balanced", "random"])
def test_warm_items_are_placed_together_and_cold_ones_encoded(runs: Runs, name: str) -> None:
    ran = runs(task(name), bench(world()))
    x, warm = world().embeddings, np.setdiff1d(np.arange(ITEMS), COLD)
    tokenizer = registry.find("tokenizer", name)(**SMALL)
    assert (ran.sids.codes[warm] == tokenizer.fit_encode(x[warm])).all()
    assert (ran.sids.codes[COLD] == tokenizer.encode(x[COLD])).all()
    assert ran.sids.item_ids.tolist() == world().item_ids.tolist()
    again = float((tokenizer.encode(x[warm]) == ran.sids.codes[warm]).all(axis=1).mean())
    assert ran.record.metrics["encode_agreement"] == again
    assert json.loads((ran.folder / "manifest.json").read_text())["cold_items"] == len(COLD)


def test_the_resolver_leaves_what_there_was_and_makes_room(runs: Runs) -> None:
    ran = runs(task("rq-kmeans", Suffix(), codebook_size=3), bench(world()))
    warm = np.setdiff1d(np.arange(ITEMS), COLD)
    x = world().embeddings[warm]
    tokenizer = registry.find("tokenizer", "rq-kmeans")(**{**SMALL, "codebook_size": 3})
    alone = Suffix().resolve(
        SIDs(tokenizer.fit_encode(x), tokenizer.sizes, world().item_ids[warm]), tokenizer, x
    )
    assert (ran.sids.codes[warm] == alone.codes).all()
    assert len(np.unique(ran.sids.codes, axis=0)) == ITEMS
    assert ran.record.metrics["collision_items_resolved"] == 0
    assert 0 < ran.record.metrics["collision_cold"] <= 1


def test_cold_and_warm_targets_are_counted_apart(runs: Runs) -> None:
    made = bench(world())
    asked = np.isin(made.split.test.items, COLD)
    found = {
        name: runs(task(name), made).record.metrics for name in ("popularity", "transitions", "item-knn")
    }
    for m in found.values():
        whole = m["recall_cold@10"] * asked.sum() + m["recall_warm@10"] * (~asked).sum()
        assert whole / len(asked) == pytest.approx(m["recall@10"])
        assert {
            f"{n}_{p}@{k}" for n in ("recall", "ndcg") for p in ("cold", "warm") for k in (1, 10)
        } <= m.keys()
    # Who counts has not met them; who compares vectors need not have.
    assert found["popularity"]["recall_cold@10"] == found["transitions"]["recall_cold@10"] == 0
    assert found["item-knn"]["recall_cold@10"] > 0.5


def test_a_decoder_can_say_a_sid_that_it_was_never_shown(runs: Runs) -> None:
    record = runs(task("rq-kmeans"), bench(world())).record
    # Its codes were met in other items; with one SID for a cluster, new items are as near as old ones.
    assert record.metrics["recall_cold@10"] > 0.2


def test_a_resolver_must_be_able_to_add_and_may_change_nothing(tmp_path: Path) -> None:
    class Closed(Resolver):
        name = "closed"

        def resolve(self, sids: SIDs, tokenizer: Any, x: Any) -> SIDs:
            return sids

    class Moving(Closed):
        name = "moving"

        def extend(self, frozen: SIDs, codes: Any, item_ids: Any, tokenizer: Any, x: Any) -> SIDs:
            both = np.concatenate([frozen.codes[::-1], codes])
            return frozen.replace(codes=both, item_ids=np.concatenate([frozen.item_ids, item_ids]))

    for resolver, said in ((Closed(), "closed gives no SIDs"), (Moving(), "moving.extend must return")):
        record = run_one(task("rq-kmeans", resolver), bench(world()), Store(tmp_path), {})
        assert record.error is not None
        assert (record.error["stage"], said in record.error["message"]) == ("resolve", True)


def test_codes_that_are_looked_up_are_refused(tmp_path: Path, sidbench_cli: Callable[..., Said]) -> None:
    codes = tmp_path / "codes.npy"
    np.save(codes, np.zeros((300, 2), np.int32))
    run = ("run", "--dataset", "synthetic:tiny", "--methods", "popularity,precomputed", "--results", tmp_path)
    given = ("--set", f"precomputed.path={codes}", "--set", "precomputed.codebook_size=4")
    said = sidbench_cli(*run, *given, "--set", "precomputed.levels=2", "--protocol", "cold-start")
    assert said.code == 2
    assert "precomputed looks its codes up and cannot encode new items" in said.err
    assert not (tmp_path / "records").exists()
    method = registry.find("tokenizer", "precomputed")(path=codes, levels=2, codebook_size=4)
    refuse(method, leave_one_out(world()))
    with pytest.raises(UsageError, match="Leave it out"):
        refuse(method, bench(world()).split)


def test_vectors_on_disk_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path))
    x = world().embeddings
    disk = cached_rows("all", x.shape, lambda out: out.__setitem__(slice(None), x))
    made = bench(replace(world(), embeddings=disk))
    assert isinstance(made.known.base, np.memmap)
    assert (made.known == x[made.split.warm]).all()
    assert not made.known.flags.writeable
    # Other cold items, another file.
    other = Bench(made.corpus, ColdStart(share=0.15, seed=1).split(made.corpus), (1,), "keep", "cpu", 1)
    assert (other.known == x[other.split.warm]).all()


def test_a_protocol_with_parameters_names_them_and_leave_one_out_is_named_as_ever() -> None:
    row = task("popularity")
    said = {name: row.key(bench(world(), name))["protocol"] for name in ("leave-one-out", "time-split")}
    assert said["leave-one-out"].keys() == {"name", "seen", "cutoffs", "evaluated"}
    assert said["time-split"]["params"] == {"valid": 0.1, "test": 0.1, "times": world().times_digest}
    assert row.key(bench(world()))["protocol"]["params"] == {"share": 0.15, "seed": 0}


@pytest.mark.parametrize("seen", ["keep", "mask"])
def test_a_user_may_be_asked_several_times(runs: Runs, seen: str) -> None:
    made = bench(world(), "time-split", seen=seen)
    test = made.split.test
    assert len(np.unique(test.users)) < len(test)
    for name in ("transitions", "rq-kmeans"):
        ran = runs(task(name), made)
        at = ran.vectors
        assert (at["user"] == test.users).all()
        assert len(at["target_before"]) == len(test)
        assert ran.record.metrics["recall@10"] > 0.3
        assert np.mean(ran.record.levels["recall_decile@10"]) == pytest.approx(
            ran.record.metrics["recall@10"]
        )


def test_the_command_line_sets_a_protocol(tmp_path: Path, sidbench_cli: Callable[..., Said]) -> None:
    run = ("run", "--dataset", "synthetic:tiny", "--methods", "popularity,item-knn", "--results", tmp_path)
    given = ("--set", "cold-start.share=0.1", "--set", "cold-start.seed=3")
    said = sidbench_cli(*run, "--protocol", "cold-start", *given)
    assert said.code == 0, said.err
    assert "30 of 300 items are cold" in " ".join(said.out.split())
    said = sidbench_cli(*run, "--protocol", "time-split")
    assert said.code == 0, said.err
    assert "10.0%) test" in " ".join(said.out.split())
    assert "403 test targets of 94 users" in " ".join(said.out.split())
    assert "--set cold-start is not used" in sidbench_cli(*run, *given, "--dry-run").out
    assert sidbench_cli(*run, "--protocol", "cold-start", "--set", "cold-start.share=2").code == 2
    board = (tmp_path / "LEADERBOARD.md").read_text()
    assert "Recall cold@10 ↑" in board
    assert "`cold-start` with `seed 3, share 0.1`" in board
    # Each is a table of its own.
    assert board.count("\n## synthetic-tiny") == 2
    assert "Recall by popularity@10: head to tail" in board


def test_protocols_are_explained(sidbench_cli: Callable[..., Said]) -> None:
    said = sidbench_cli("list", "protocols").out
    for word in ("leave-one-out", "time-split", "cold-start", "share", "8:1:1"):
        assert word in said
    assert "held out" in sidbench_cli("list", "--params", "cold-start").out or "share" in said
