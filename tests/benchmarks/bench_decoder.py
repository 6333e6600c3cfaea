"""Decoder against Hugging Face T5 at TIGER size, both sides in one run: training and constrained search.

    python tests/benchmarks/bench_decoder.py --what train|loss|search|all [--rounds 5] [--threads 2]

Runs of the two sides alternate and medians are compared, so that a busy machine slows both. Each side runs in
the faster of its precisions. Needs the extra `bench` (transformers); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench.dataset import Sequences
from sidbench.decoder import Decoder
from sidbench.decoder.inputs import Windows
from sidbench.decoder.training import negative_log_likelihood
from sidbench.protocol import Split, Targets
from sidbench.sids import SIDs

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'sidbench[bench]'")

ITEMS, LEVELS, SIZE, HISTORY, BATCH = 12_000, 4, 256, 20, 256
RATE, DECAY, CLIP, WARMUP = 1e-3, 0.01, 1.0, 20
Rows = tuple[torch.Tensor, torch.Tensor]


def world(seed: int = 0) -> SIDs:
    """12,000 items with 4 codes: a skewed tree, and a last level that numbers the items sharing the rest."""
    rng = np.random.default_rng(seed)
    codes = (rng.random((ITEMS, LEVELS)) ** 2 * SIZE).astype(np.int32)
    codes[:, -1] = 0
    order = np.lexsort(codes.T[::-1])
    same = np.r_[False, (codes[order][1:] == codes[order][:-1]).all(1)]
    run = np.arange(ITEMS) - np.maximum.accumulate(np.where(same, 0, np.arange(ITEMS)))
    codes[order, -1] = run
    return SIDs(codes, (SIZE,) * LEVELS, np.arange(ITEMS))


def walks(seed: int, users: int, lengths: NDArray[np.int64]) -> Sequences:
    """Users who mostly go on to one of two fixed successors of the last item: something to learn, fast."""
    successors = np.random.default_rng(1).integers(0, 400, (ITEMS, 2))
    rng = np.random.default_rng(seed)
    longest = int(lengths.max())
    out = np.empty((users, longest), dtype=np.int64)
    out[:, 0] = rng.integers(0, 400, users)
    for t in range(1, longest):
        follow = rng.random(users) < 0.8
        out[:, t] = np.where(
            follow, successors[out[:, t - 1], rng.integers(0, 2, users)], rng.integers(0, 400, users)
        )
    return Sequences.of(row[:n] for row, n in zip(out, lengths, strict=True))


class Ours:
    """The decoder of this suite, driven batch by batch as `fit` drives it."""

    name = "sidbench"

    def __init__(self, sids: SIDs, precision: str, seed: int = 0) -> None:
        self.decoder = Decoder.preset(
            "paper",
            user_tokens=0,
            history=HISTORY,
            batch=BATCH,
            precision=precision,
            device="cpu",
            beam=20,
            seed=seed,
        )
        nobody = Targets(np.zeros(0, np.int64), Sequences.of([]), np.zeros(0, np.int32))
        split = Split("none", Sequences.of([[0, 1]]), nobody, nobody, len(sids))
        self.weights, _, self.learner = self.decoder._ready(sids, split)
        self.learner.begin(0)
        self.steps = 0

    def train(self, windows: Windows, batch: torch.Tensor, rate: float) -> None:
        order = (windows.end[batch] - windows.begin[batch]).argsort(descending=True, stable=True)
        self.learner.windows = windows
        self.learner.gradient(batch[order], self.steps)
        self.weights.step(rate, self.weights.gathered())
        self.steps += 1

    def loss(self, windows: Windows, batch: torch.Tensor) -> float:
        inputs = self.decoder.reader_.read(
            windows.items, windows.begin[batch], windows.end[batch], windows.users[batch]
        )
        codes = self.decoder.trie_.item_codes[windows.items[windows.end[batch]]]
        with torch.inference_mode():
            losses = negative_log_likelihood(self.decoder.model_, inputs, codes, variable=False)
        return float(losses.mean())

    def search(self, histories: Sequences) -> None:
        self.decoder.recommend(histories, 20)


class Theirs:
    """T5ForConditionalGeneration over one vocabulary of all codes, padded to the longest of a batch."""

    name = "Hugging Face T5"

    def __init__(self, sids: SIDs, precision: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        config = transformers.T5Config(
            vocab_size=1 + LEVELS * SIZE, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4,
            num_heads=6, dropout_rate=0.1, feed_forward_proj="relu", pad_token_id=0, decoder_start_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        self.model = transformers.T5ForConditionalGeneration(config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=DECAY, fused=True
        )
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        # Code c of level l is token 1 + l * SIZE + c; 0 pads and begins. The last row is padding.
        tokens = torch.from_numpy(sids.codes).long() + 1 + torch.arange(LEVELS) * SIZE
        self.tokens = torch.cat((tokens, torch.zeros(1, LEVELS, dtype=torch.long)))
        self.allowed: dict[tuple[int, ...], list[int]] = {}
        for row in tokens.tolist():
            for level in range(LEVELS):
                self.allowed.setdefault(tuple(row[:level]), []).append(row[level])
        self.allowed = {prefix: sorted(set(codes)) for prefix, codes in self.allowed.items()}

    def _read(self, items: torch.Tensor, begin: torch.Tensor, end: torch.Tensor) -> Rows:
        lengths = end - begin
        at = begin[:, None] + torch.arange(int(lengths.max()))
        rows = torch.where(at < end[:, None], items[at.clamp(max=len(items) - 1)], ITEMS)
        tokens = self.tokens[rows].flatten(1)
        return tokens, (tokens != 0).long()

    def train(self, windows: Windows, batch: torch.Tensor, rate: float) -> None:
        self.model.train()
        ids, mask = self._read(windows.items, windows.begin[batch], windows.end[batch])
        labels = self.tokens[windows.items[windows.end[batch]]]
        with self.autocast:
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, windows: Windows, batch: torch.Tensor) -> float:
        """In full precision, softmax over the codes of the level: what the other side is asked."""
        self.model.eval()
        ids, mask = self._read(windows.items, windows.begin[batch], windows.end[batch])
        labels = self.tokens[windows.items[windows.end[batch]]]
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, labels=labels).logits
        logp = logits[..., 1:].unflatten(-1, (LEVELS, SIZE)).diagonal(dim1=1, dim2=2).log_softmax(1)
        goals = (labels - 1 - torch.arange(LEVELS) * SIZE)[:, None]
        return -float(logp.gather(1, goals).mean())

    def search(self, histories: Sequences, at_once: int = 32) -> None:
        self.model.eval()
        items, offsets = torch.from_numpy(histories.items).long(), torch.from_numpy(histories.offsets)
        for start in range(0, len(histories), at_once):
            end = offsets[start + 1 : start + at_once + 1]
            begin = torch.maximum(offsets[start : start + len(end)], end - HISTORY)
            ids, mask = self._read(items, begin, end)
            with torch.inference_mode(), self.autocast:
                self.model.generate(
                    input_ids=ids, attention_mask=mask, num_beams=20, num_return_sequences=20,
                    max_new_tokens=LEVELS, do_sample=False, prefix_allowed_tokens_fn=self._after,
                )  # fmt: skip

    def _after(self, _: int, tokens: torch.Tensor) -> list[int]:
        return self.allowed[tuple(tokens[1:].tolist())]


def lengths(kind: str, users: int, seed: int) -> NDArray[np.int64]:
    """`full`: every history has 20 items. `mixed`: as in review data, 3 to 60, most of them short."""
    if kind == "full":
        return np.full(users, HISTORY + 1)
    rng = np.random.default_rng(seed)
    drawn = 3 + rng.geometric(0.2, users) * rng.integers(1, 3, users)
    out: NDArray[np.int64] = np.minimum(drawn, 60)
    return out


def make_windows(kind: str, users: int, seed: int) -> Windows:
    windows = Windows(walks(seed, users, lengths(kind, users, seed)), HISTORY, seed)
    if kind == "full":
        keep = windows.end - windows.begin == HISTORY
        windows.begin, windows.end, windows.users, windows.counts = (
            windows.begin[keep],
            windows.end[keep],
            windows.users[keep],
            windows.counts[keep],
        )
    return windows


def clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns after a round that does not count."""
    seconds: dict[str, list[float]] = {key: [] for key in works}
    for round_ in range(rounds + 1):
        for key, work in works.items():
            taken = clock(work)
            if round_:
                seconds[key].append(taken)
    return {key: statistics.median(values) for key, values in seconds.items()}


def one_step(runner: Ours | Theirs, windows: Windows) -> Callable[[], None]:
    return lambda: runner.train(windows, windows.next(BATCH), 1e-4)


def bench_train(rounds: int) -> dict[str, float]:
    """Seconds a step of 256 sequences, both precisions of both sides."""
    sids = world()
    ratios = {}
    for kind in ("full", "mixed"):
        windows = make_windows(kind, 4_000, 2)
        works: dict[str, Callable[[], Any]] = {}
        for side in (Ours, Theirs):
            for precision in ("fp32", "bf16"):
                works[f"{side.name} {precision}"] = one_step(side(sids, precision), windows)
        seconds = alternate(works, rounds)
        table(f"training, {kind} histories, batch {BATCH}", "sequences/s", seconds, BATCH)
        ratios[kind] = best(seconds, Theirs.name) / best(seconds, Ours.name)
        print(f"\nratio: **{ratios[kind]:.2f}** (needed: 2.5)\n", flush=True)
    return ratios


def bench_loss(steps: int, seeds: int = 1) -> float:
    """Validation loss after the same batches, in the precisions that are faster here."""
    sids = world()
    train, valid = make_windows("mixed", 4_000, 3), make_windows("mixed", 400, 4)
    held = torch.arange(min(len(valid), 2_048))
    losses: dict[str, list[float]] = {Ours.name: [], Theirs.name: []}
    for seed in range(seeds):
        sides: list[Ours | Theirs] = [Ours(sids, "bf16", seed), Theirs(sids, "bf16", seed)]
        for step in range(steps):
            batch, rate = train.next(BATCH), RATE * min(1, (step + 1) / WARMUP)
            for side in sides:
                side.train(train, batch, rate)
            if (step + 1) % max(1, steps // 8) == 0:
                print(
                    f"step {step + 1}: " + ", ".join(f"{s.name} {s.loss(valid, held):.4f}" for s in sides),
                    flush=True,
                )
        for side in sides:
            losses[side.name].append(side.loss(valid, held))
    ours, theirs = statistics.mean(losses[Ours.name]), statistics.mean(losses[Theirs.name])
    print(f"\n| validation loss after {steps * BATCH:,} sequences | nats a code |\n|---|---|")
    print(f"| {Ours.name} | {ours:.4f} |\n| {Theirs.name} | {theirs:.4f} |")
    print(f"\nratio: **{ours / theirs:.3f}** (needed: at most 1.02)\n", flush=True)
    return ours / theirs


def bench_search(rounds: int) -> float:
    """Users/s, histories in, ranking out; untrained weights, which search as trained ones do."""
    sids = world()
    histories = walks(5, 64, lengths("full", 64, 5))
    works: dict[str, Callable[[], Any]] = {}
    for side in (Ours, Theirs):
        for precision in ("fp32", "bf16"):
            works[f"{side.name} {precision}"] = partial(side(sids, precision).search, histories)
    seconds = alternate(works, rounds)
    table(f"constrained search, beam 20, {ITEMS:,} items, histories of {HISTORY}", "users/s", seconds, 64)
    ratio = best(seconds, Theirs.name) / best(seconds, Ours.name)
    print(f"\nratio: **{ratio:.1f}** (needed: 10)\n", flush=True)
    return ratio


def best(seconds: dict[str, float], side: str) -> float:
    return min(value for key, value in seconds.items() if key.startswith(side))


def table(title: str, unit: str, seconds: dict[str, float], done: int) -> None:
    print(f"| {title} | median s | {unit} |\n|---|---|---|")
    for key, value in seconds.items():
        print(f"| {key} | {value:.3f} | {done / value:.1f} |")


def test_training_is_two_and_a_half_times_as_fast() -> None:
    assert min(bench_train(3).values()) >= 2.5


def test_the_loss_is_no_worse_after_as_many_sequences() -> None:
    assert bench_loss(150) <= 1.02


def test_search_is_ten_times_as_fast() -> None:
    assert bench_search(3) >= 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("train", "loss", "search", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {arguments.threads} threads\n"
    )
    if arguments.what in ("train", "all"):
        bench_train(arguments.rounds)
    if arguments.what in ("loss", "all"):
        bench_loss(arguments.steps, arguments.seeds)
    if arguments.what in ("search", "all"):
        bench_search(arguments.rounds)


if __name__ == "__main__":
    main()
