"""Decoder against Hugging Face T5 at TIGER size, both sides in one run: training and constrained search.

    python tests/benchmarks/bench_decoder.py --what train|loss|search|padding|same|bf16|all [--rounds 5]
    python tests/benchmarks/bench_decoder.py --device cuda      # all that is asked of a GPU

Runs of the two sides alternate and medians are compared, so that a busy machine slows both. Each side runs in
the faster of its precisions (on CUDA, T5 in fp32 may use TF32). `padding` measures what cutting batches by
length gains, on lengths as in review data; `same` compares fp32 rankings of CUDA and CPU; `bf16` the recall
in both precisions. Needs the extra `bench` (transformers); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sidbench import metrics
from sidbench.dataset import Sequences
from sidbench.decoder import Decoder
from sidbench.decoder.inputs import Windows
from sidbench.decoder.training import negative_log_likelihood
from sidbench.protocol import Split, Targets
from sidbench.sids import SIDs

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'sidbench[bench]'")

NEEDED = {"cpu": (2.5, 10.0), "cuda": (4.0, 100.0)}
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

    def __init__(self, sids: SIDs, precision: str, device: str, seed: int = 0, **more: Any) -> None:
        settings = {"user_tokens": 0, "history": HISTORY, "batch": BATCH, "beam": 20, **more}
        self.decoder = Decoder.preset("paper", **settings, precision=precision, device=device, seed=seed)
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
        reader = self.decoder.reader_
        inputs = reader.read(windows.items, windows.begin[batch], windows.end[batch], windows.users[batch])
        codes = self.decoder.trie_.item_codes[reader.send(windows.items[windows.end[batch]])]
        with torch.inference_mode():
            losses = negative_log_likelihood(self.decoder.model_, inputs, codes, variable=False)
        return float(losses.mean())

    def search(self, histories: Sequences) -> None:
        self.decoder.recommend(histories, 20)


class Theirs:
    """T5ForConditionalGeneration over one vocabulary of all codes, padded to the longest of a batch."""

    name = "Hugging Face T5"

    def __init__(self, sids: SIDs, precision: str, device: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        config = transformers.T5Config(
            vocab_size=1 + LEVELS * SIZE, d_model=128, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4,
            num_heads=6, dropout_rate=0.1, feed_forward_proj="relu", pad_token_id=0, decoder_start_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        self.model = transformers.T5ForConditionalGeneration(config).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=DECAY, fused=True
        )
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
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
        tokens = self.tokens[rows].flatten(1).to(self.device)
        return tokens, (tokens != 0).long()

    def train(self, windows: Windows, batch: torch.Tensor, rate: float) -> None:
        self.model.train()
        ids, mask = self._read(windows.items, windows.begin[batch], windows.end[batch])
        labels = self.tokens[windows.items[windows.end[batch]]].to(self.device)
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
        labels = self.tokens[windows.items[windows.end[batch]]].to(self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, labels=labels).logits
        logp = logits[..., 1:].unflatten(-1, (LEVELS, SIZE)).diagonal(dim1=1, dim2=2).log_softmax(1)
        goals = (labels - 1 - torch.arange(LEVELS, device=self.device) * SIZE)[:, None]
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
    """`full`: every history has 20 items. `mixed`: 3 to 60. `reviews`: as Amazon's Beauty, a mean of 7."""
    if kind == "full":
        return np.full(users, HISTORY + 1)
    rng = np.random.default_rng(seed)
    if kind == "reviews":
        drawn = 2 + rng.geometric(0.5, users) + (rng.random(users) < 0.3) * rng.geometric(0.1, users)
    else:
        drawn = 3 + rng.geometric(0.2, users) * rng.integers(1, 3, users)
    out: NDArray[np.int64] = np.minimum(drawn, 60)
    return out


def make_windows(kind: str, users: int, seed: int, *, every: bool = False) -> Windows:
    windows = Windows(walks(seed, users, lengths(kind, users, seed)), HISTORY, seed, every=every)
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
    """Seconds, a GPU waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns after two rounds that do not count."""
    seconds: dict[str, list[float]] = {key: [] for key in works}
    for round_ in range(-2, rounds):
        for key, work in works.items():
            taken = clock(work)
            if round_ >= 0:
                seconds[key].append(taken)
    return {key: statistics.median(values) for key, values in seconds.items()}


def steps(runner: Ours | Theirs, windows: Windows, count: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(count):
            runner.train(windows, windows.next(BATCH), 1e-4)

    return work


@contextmanager
def tf32(device: str) -> Iterator[None]:
    """The other side's fp32 products may be rounded on a GPU, as most people let them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bench_train(device: str, rounds: int) -> dict[str, float]:
    """Seconds a step of 256 sequences, both precisions of both sides."""
    sids, count = world(), 1 if device == "cpu" else 20
    ratios = {}
    with tf32(device):
        for kind in ("full", "mixed"):
            windows = make_windows(kind, 4_000, 2)
            works: dict[str, Callable[[], Any]] = {}
            for side in (Ours, Theirs):
                for precision in ("fp32", "bf16"):
                    works[f"{side.name} {precision}"] = steps(side(sids, precision, device), windows, count)
            seconds = alternate(works, rounds)
            table(f"training, {kind} histories, batch {BATCH}", "sequences/s", seconds, BATCH * count)
            ratios[kind] = best(seconds, Theirs.name) / best(seconds, Ours.name)
            print(f"\nratio: **{ratios[kind]:.2f}** (needed: {NEEDED[device][0]})\n", flush=True)
    return ratios


def bench_padding(device: str, rounds: int) -> dict[str, float]:
    """A batch cut by length against one that is not, at the sizes of `quick` and histories of 20."""
    sids, ratios = world(), {}
    for architecture in ("causal", "tiger"):
        windows = make_windows("reviews", 4_000, 2, every=architecture == "causal")
        for tokens in ("items", "codes"):
            works: dict[str, Callable[[], Any]] = {}
            quick = {
                key: value
                for key, value in Decoder().params().items()
                if key not in ("precision", "device", "seed")
            }
            more = {
                **quick,
                "architecture": architecture,
                "tokens": tokens,
                "history": HISTORY,
                "batch": BATCH,
            }
            for name in ("cut", "whole"):
                ours = Ours(sids, "fp32", device, **more)
                if name == "whole":
                    ours.learner._spare = 1 << 40
                works[name] = steps(ours, windows, 5)
            seconds = alternate(works, rounds)
            title = f"{architecture} over {tokens}, histories as in reviews, batch {BATCH}"
            table(title, "sequences/s", seconds, 5 * BATCH)
            ratios[title] = seconds["whole"] / seconds["cut"]
            print(f"\nratio: **{ratios[title]:.2f}**\n", flush=True)
    return ratios


def bench_loss(device: str, steps: int, seeds: int = 1) -> float:
    """Validation loss after the same batches, in the precisions that are faster here."""
    sids = world()
    train, valid = make_windows("mixed", 4_000, 3), make_windows("mixed", 400, 4)
    held = torch.arange(min(len(valid), 2_048))
    losses: dict[str, list[float]] = {Ours.name: [], Theirs.name: []}
    for seed in range(seeds):
        sides: list[Ours | Theirs] = [side(sids, "bf16", device, seed) for side in (Ours, Theirs)]
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


def bench_search(device: str, rounds: int) -> float:
    """Users/s, histories in, ranking out; untrained weights, which search as trained ones do."""
    # As many users as keep each side busy: a GPU gains from more of them, up to what its memory holds.
    users: dict[type[Ours | Theirs], int] = {Ours: 64 if device == "cpu" else 8_192, Theirs: 64}
    sids = world()
    histories = {side: walks(5, n, lengths("full", n, 5)) for side, n in users.items()}
    works: dict[str, Callable[[], Any]] = {}
    each = {}
    with tf32(device):
        for side, n in users.items():
            for precision in ("fp32", "bf16"):
                key = f"{side.name} {precision}"
                works[key] = partial(side(sids, precision, device).search, histories[side])
                each[key] = n
        seconds = {key: value / each[key] for key, value in alternate(works, rounds).items()}
    table(f"constrained search, beam 20, {ITEMS:,} items, histories of {HISTORY}", "users/s", seconds, 1)
    ratio = best(seconds, Theirs.name) / best(seconds, Ours.name)
    print(f"\nratio: **{ratio:.1f}** (needed: {NEEDED[device][1]:.0f})\n", flush=True)
    return ratio


def bench_same(device: str) -> float:
    """The rankings of the same fp32 weights on CPU and device: how many places differ beyond ties."""
    sids, train = world(), make_windows("mixed", 4_000, 3)
    ours = Ours(sids, "fp32", device)
    for step in range(60):
        ours.train(train, train.next(BATCH), RATE * min(1, (step + 1) / WARMUP))
    theirs = Ours(sids, "fp32", "cpu")
    theirs.decoder.model_.load_state_dict(ours.decoder.model_.state_dict())
    histories = walks(6, 256, lengths("mixed", 256, 6))
    one, other = (side.decoder.recommend(histories, 20) for side in (ours, theirs))
    # Two groups that change places where scores agree to single precision are a tie.
    tied = np.isclose(one.scores, other.scores, rtol=1e-5, atol=1e-4)
    wrong = float(((one.groups != other.groups) & ~tied).mean())
    differ = float((one.groups != other.groups).mean())
    gap = float(np.abs(one.scores - other.scores).max())
    print(
        f"fp32 on {device} and CPU: {differ:.3%} of places differ, {wrong:.3%} beyond ties; "
        f"scores by {gap:.1e} at most\n"
    )
    return wrong


def bench_bf16(device: str, steps: int) -> float:
    """Recall@10 of a training in bf16, relative to one in fp32 of the same batches, searched in its own."""
    sids, found = world(), {}
    train = walks(3, 4_000, lengths("mixed", 4_000, 3))
    test = walks(7, 2_000, lengths("mixed", 2_000, 7))
    histories, goals = test.drop_last(1), test.last(1)
    for precision in ("fp32", "bf16"):
        windows, ours = Windows(train, HISTORY, 3), Ours(sids, precision, device)
        for step in range(steps):
            ours.train(windows, windows.next(BATCH), RATE * min(1, (step + 1) / WARMUP))
        ranking = ours.decoder.recommend(histories, 20)
        places = metrics.places(ranking, goals)
        found[precision] = metrics.ranking_metrics(places, (10,), sid_level=False)["recall@10"]
    ratio = found["bf16"] / found["fp32"]
    print(
        f"Recall@10 after {steps} steps: fp32 {found['fp32']:.4f}, bf16 {found['bf16']:.4f}; "
        f"ratio: **{ratio:.4f}**\n"
    )
    return ratio


def best(seconds: dict[str, float], side: str) -> float:
    return min(value for key, value in seconds.items() if key.startswith(side))


def table(title: str, unit: str, seconds: dict[str, float], done: int) -> None:
    print(f"| {title} | median s | {unit} |\n|---|---|---|")
    for key, value in seconds.items():
        print(f"| {key} | {value:.3f} | {done / value:.1f} |")


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


@on_devices
def test_training_is_as_fast_as_needed(device: str) -> None:
    assert min(bench_train(device, 3).values()) >= NEEDED[device][0]


@on_devices
def test_the_loss_is_no_worse_after_as_many_sequences(device: str) -> None:
    assert bench_loss(device, 150) <= 1.02


@on_devices
def test_search_is_as_fast_as_needed(device: str) -> None:
    assert bench_search(device, 3) >= NEEDED[device][1]


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_gpu_finds_what_a_processor_finds(device: str) -> None:
    assert bench_same(device) == 0
    assert abs(bench_bf16(device, 1_500) - 1) <= 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = ("train", "loss", "search", "padding", "same", "bf16", "all")
    parser.add_argument("--what", choices=what, default="all")
    parser.add_argument("--device", choices=tuple(NEEDED), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of `loss` (150) and `bf16` (1500)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    device, all_ = arguments.device, arguments.what == "all"
    torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} threads"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}\n")
    if arguments.what == "train" or all_:
        bench_train(device, arguments.rounds)
    if arguments.what == "loss" or all_:
        bench_loss(device, arguments.steps or 150, arguments.seeds)
    if arguments.what == "search" or all_:
        bench_search(device, arguments.rounds)
    if arguments.what == "padding" or all_:
        bench_padding(device, arguments.rounds)
    # Of a processor against itself there is nothing to say, and bf16 takes it an hour.
    if arguments.what == "same" or (all_ and device == "cuda"):
        bench_same(device)
    if arguments.what == "bf16" or (all_ and device == "cuda"):
        bench_bf16(device, arguments.steps or 1_500)


if __name__ == "__main__":
    main()
