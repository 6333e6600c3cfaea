"""RQ-VAE training beside its peers: `python tests/benchmarks/bench_rqvae.py [--epochs 15] [--rounds 3]`.

20,000 x 768, hidden layers 512-256-128-64 and 32 latents, 3 x 256 codes, 1,024 rows in a step; all else is as
every side's authors ship it. Sides alternate within a round. Speed is that of four epochs, without the first
codebooks; error (squared, over the variance of the data) and collisions ((N - distinct) / N) are those of
encoder and decoder after `--epochs` epochs. Peers need their clones (SIDBENCH_PEERS) or packages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import bench_kmeans  # first: it says how pools of threads wait, before any is made
import numpy as np
import peers
import torch
from numpy.typing import NDArray
from torch import nn

from sidbench import registry
from sidbench.progress import listening
from sidbench.sids import Codes, distinct_rows

Floats = NDArray[np.float32]
HIDDEN, LATENT, LEVELS, K, BATCH = [512, 256, 128, 64], 32, 3, 256, 1024
TIMED = 4  # epochs


@dataclass
class Trained:
    """One training: seconds an epoch, seconds before the first, and what it makes of the rows."""

    epochs: list[float]
    first: float
    codes: Codes
    rows: Floats


Train = Callable[[Floats, int], Trained]


def ours(x: Floats, epochs: int) -> Trained:
    """A report comes after every epoch: the first one's length is taken to be the mean of the others'."""
    method: Any = registry.find("tokenizer", "rq-vae")(
        levels=LEVELS, codebook_size=K, hidden=tuple(HIDDEN), latent=LATENT, batch_size=BATCH, epochs=epochs
    )
    marks: list[float] = []
    start = time.perf_counter()
    with listening(lambda *_: marks.append(time.perf_counter())):
        method.fit(x)
    whole = time.perf_counter() - start
    spent = np.diff(marks).tolist()
    codes = method.encode(x)
    return Trained(spent, whole - sum(spent) * epochs / len(spent), codes, method.reconstruct(codes))


def minionerec(workers: int, warmup: int | None = None) -> Train:
    """MiniOneRec's model, trainer and arguments, from its clone."""
    script, datasets = peers.together("MiniOneRec", "rq", ["rqvae", "datasets"])

    def train(x: Floats, epochs: int) -> Trained:
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/x.npy", x)
            given = {
                "data_path": f"{folder}/x.npy",
                "ckpt_dir": folder,
                "device": "cpu",
                "epochs": epochs,
                "batch_size": BATCH,
                "num_workers": workers,
                "e_dim": LATENT,
                **({} if warmup is None else {"warmup_epochs": warmup}),
            }
            layers = ["--layers", *map(str, HIDDEN), "--num_emb_list", *[str(K)] * LEVELS]
            argv, sys.argv = sys.argv, ["rqvae.py", *(f"--{k}={v}" for k, v in given.items()), *layers]
            args = script.parse_args()
            sys.argv = argv
            data = datasets.EmbDataset(args.data_path)
            model = script.RQVAE(
                in_dim=data.dim,
                num_emb_list=args.num_emb_list,
                e_dim=args.e_dim,
                layers=args.layers,
                dropout_prob=args.dropout_prob,
                bn=args.bn,
                loss_type=args.loss_type,
                quant_loss_weight=args.quant_loss_weight,
                beta=args.beta,
                kmeans_init=args.kmeans_init,
                kmeans_iters=args.kmeans_iters,
                sk_epsilons=args.sk_epsilons,
                sk_iters=args.sk_iters,
            )
            loader = script.DataLoader(
                data, num_workers=args.num_workers, batch_size=args.batch_size, shuffle=True, pin_memory=True
            )
            trainer = script.Trainer(args, model, len(loader))
        order = torch.randperm(len(x))[:BATCH]
        first = seconds(lambda: model.train()(torch.from_numpy(x[order])))
        spent = [seconds(partial(trainer._train_epoch, loader, epoch)) for epoch in range(epochs)]
        with torch.no_grad():
            rows, _, codes = model.eval()(torch.from_numpy(x), use_sk=False)
        return Trained(spent, first, codes.int().numpy(), rows.numpy())

    return train


def recommender() -> Train:
    """RQ-VAE-Recommender's model in its training loop's steps (Amazon's settings), not compiled."""
    rqvae, quantize, schemas = peers.together(
        "RQ-VAE-Recommender", ".", ["modules.rqvae", "modules.quantize", "data.schemas"]
    )

    class Items(torch.utils.data.Dataset[Any]):
        def __init__(self, x: Floats) -> None:
            self.x = torch.from_numpy(x)

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, at: Any) -> Any:
            ids = torch.as_tensor(at)
            none = -torch.ones_like(ids)
            return schemas.SeqBatch(
                none, ids, none, self.x[ids], none, torch.ones_like(ids, dtype=torch.bool)
            )

    def train(x: Floats, epochs: int) -> Trained:
        items: Any = Items(x)
        sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(items), BATCH, False)
        loader = torch.utils.data.DataLoader(items, sampler=sampler, batch_size=None, collate_fn=lambda b: b)
        model = rqvae.RqVae(
            input_dim=x.shape[1],
            embed_dim=LATENT,
            hidden_dims=HIDDEN,
            codebook_size=K,
            codebook_mode=quantize.QuantizeForwardMode.STE,
            n_layers=LEVELS,
            n_cat_features=0,
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

        def epoch() -> None:
            model.train()
            for batch in loader:
                optimizer.zero_grad()
                out = model(batch, gumbel_t=0.2)
                out.loss.backward()
                for loss in (out.loss, out.reconstruction_loss, out.rqvae_loss):
                    loss.item()
                optimizer.step()

        # Its k-means ends when no centre moves, after minutes: where speed alone counts, on few rows.
        start = torch.arange(min(20_000 if epochs > TIMED else 2048, len(x)))
        with torch.compiler.set_stance("force_eager"):
            first = seconds(lambda: model.train()(items[start], 0.2))
            spent = [seconds(epoch) for _ in range(epochs)]
        with torch.no_grad():
            found = model.eval().get_semantic_ids(items.x)
            rows = model.decode(found.embeddings.sum(dim=-1))
        return Trained(spent, first, found.sem_ids.int().numpy(), rows.numpy())

    return train


def lucidrains(**changes: Any) -> Train:
    """A plain autoencoder around vector-quantize-pytorch's ResidualVQ, as its documentation starts one."""
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ImportError as e:
        raise peers.MissingPeerError(f"lucidrains: {e}; pip install vector-quantize-pytorch") from None

    def mlp(sizes: list[int]) -> nn.Sequential:
        parts: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            linear = nn.Linear(fan_in, fan_out)
            nn.init.xavier_normal_(linear.weight)  # torch's own start is too small for ten layers
            parts += [linear, nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    def train(x: Floats, epochs: int) -> Trained:
        # Centred and at unit variance: with rows as they are its error is .34, not .23.
        mean, scale = x.mean(axis=0), x.std()
        rows, sizes = torch.from_numpy((x - mean) / scale), [x.shape[1], *HIDDEN, LATENT]
        encoder, decoder = mlp(sizes), mlp(sizes[::-1])
        quantizer = ResidualVQ(dim=LATENT, num_quantizers=LEVELS, codebook_size=K, **changes)
        model = nn.ModuleList([encoder, quantizer, decoder])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def epoch() -> None:
            model.train()
            for at in torch.split(torch.randperm(len(rows)), BATCH):
                batch = rows[at]
                optimizer.zero_grad()
                out, _, commitment = quantizer(encoder(batch)[None])
                loss = nn.functional.mse_loss(decoder(out[0]), batch) + commitment.sum()
                loss.backward()
                optimizer.step()

        def begin() -> None:
            with torch.no_grad():
                quantizer.train()(encoder(rows[torch.randperm(len(rows))[:BATCH]])[None])

        first = seconds(begin)
        spent = [seconds(epoch) for _ in range(epochs)]
        with torch.no_grad():
            model.eval()
            out, codes, _ = quantizer(encoder(rows)[None])
            made = decoder(out[0]).numpy() * scale + mean
            return Trained(spent, first, codes[0].int().numpy(), made)

    return train


#: Every side, by the name that `--only` knows.
SIDES: dict[str, Callable[[], Train]] = {
    "ours": lambda: ours,
    "MiniOneRec": lambda: minionerec(4),
    "MiniOneRec, 0 workers": lambda: minionerec(0),
    "MiniOneRec, 0 workers, no warm-up": lambda: minionerec(0, 0),
    "RQ-VAE-Recommender, eager": recommender,
    "lucidrains ResidualVQ autoencoder": lucidrains,
    "lucidrains ResidualVQ autoencoder, k-means": lambda: lucidrains(kmeans_init=True, kmeans_iters=10),
}


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What peers print, log, warn of and set for everyone ends here."""
    before = torch.get_float32_matmul_precision()
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(logging.NOTSET)
        torch.set_float32_matmul_precision(before)


def run(name: str, train: Train, x: Floats, epochs: int, seed: int) -> Trained:
    np.random.seed(seed)  # noqa: NPY002 - what a peer draws from
    torch.manual_seed(seed)
    with quiet():
        if name.startswith("RQ-VAE-Recommender"):
            torch.set_float32_matmul_precision("high")  # as it sets it when it is imported
        return train(x, epochs)


def available(only: list[str]) -> dict[str, Train]:
    found = {}
    for name, make in SIDES.items():
        if only and not any(wanted.lower() in name.lower() for wanted in only):
            continue
        try:
            with quiet():
                found[name] = make()
        except peers.MissingPeerError as e:
            print(f"skipped: {e}\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="before error and collisions are taken")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0 leaves the timing out")
    parser.add_argument("--only", nargs="+", default=[], help="sides whose names hold one of these")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=768)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the length of the first is taken from the others'")
    sides = available(args.only)
    x = bench_kmeans.mixture(args.rows, args.dimensions)
    speed: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(args.rounds):
        for name, train in sides.items():
            # All epochs of ours: how often it looks at its codes depends on how many there are.
            count = max(args.epochs, TIMED + 1) if name == "ours" else TIMED
            spent = run(name, train, x, count, number).epochs[:TIMED]
            speed[name].append(len(x) * len(spent) / sum(spent))
    variance = float(np.square(x - x.mean(axis=0), dtype=np.float64).sum())
    print(f"{len(x):,} x {x.shape[1]}, error, collisions and utilization after {args.epochs} epochs\n")
    print("| side | items/s | ours / it | first codebooks | error | collisions | used, by level |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, train in sides.items():
        found = run(name, train, x, args.epochs, 0)
        error = float(np.square(x - found.rows, dtype=np.float64).sum()) / variance
        collisions = 1 - len(distinct_rows(found.codes)[0]) / len(x)
        used = ", ".join(f"{len(np.unique(level)) / K:.2f}" for level in found.codes.T)
        rate = f"{median(speed[name]):,.0f}" if args.rounds else ""
        both = args.rounds and "ours" in speed
        # The median of ratios taken side by side: the machine may be shared.
        ratio = (
            f"{median(o / s for o, s in zip(speed['ours'], speed[name], strict=True)):.2f}" if both else ""
        )
        print(
            f"| {name} | {rate} | {ratio} | {found.first:.1f} s | {error:.4f} | {collisions:.4f} | {used} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
