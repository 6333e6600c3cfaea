"""rq-kmeans-plus: residual k-means whose codebooks and rows go on learning together, from a warm start."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UsageError
from sidbench.formats.safe import read_npz
from sidbench.kit import device, network, residual
from sidbench.kit.autoencoder import Autoencoder, Autoencoding, Normalizer, sample_of
from sidbench.kit.balanced import LARGEST, balanced_kmeans, bounds
from sidbench.kit.kmeans import kmeans
from sidbench.kit.nearest import Floats, Index
from sidbench.kit.vq import ResidualVQ
from sidbench.sids import Codes
from sidbench.tokenizer import read_about

Width = Annotated[int, Field(ge=1, le=65_536)]


class RQKMeansPlus(Autoencoding):
    """RQ-KMeans+: an RQ-VAE whose encoder begins as the identity, on the codebooks of a residual k-means.

    The latent is x + f(x) with f zero at first, and so is the decoder's own part beside what it passes on:
    before the first step every code is the one of the nearest centroid of the warm start, to the bit.
    """

    name = "rq-kmeans-plus"
    paper = "https://arxiv.org/abs/2511.10138"
    quick = {"epochs": 2, "hidden": (16,), "iters": 3}

    #: rq-kmeans or rq-kmeans-balanced, fitted here; or a saved one's folder; or an .npz of codebook_0, ...
    codebooks: Literal["rq-kmeans", "rq-kmeans-balanced"] | Path = "rq-kmeans"
    #: Lloyd's iterations a level, where codebooks are fitted here.
    iters: Annotated[int, Field(ge=1)] = 25
    #: Layers of f, and in reverse of the decoder's own part.
    hidden: tuple[Width, ...] = (256,)
    #: What stays as it is for the first epochs.
    freeze: Literal["none", "codebooks", "encoder"] = "none"
    #: How many epochs that is.
    freeze_epochs: Annotated[int, Field(ge=0)] = 1
    #: Times that the catalogue is seen; 0 leaves the warm start as it is; auto: as many as make 600 steps.
    epochs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    #: The highest learning rate.
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3

    # Its start is Euclidean k-means, with a codebook for every level: settled, and so no parameters here.
    distance: ClassVar[Literal["euclidean"]] = "euclidean"  # type: ignore[misc]
    normalize_residuals: ClassVar[bool] = False  # type: ignore[misc]
    shared: ClassVar[bool] = False  # type: ignore[misc]

    auto_steps = 600

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebooks == "rq-kmeans-balanced" and max(self.sizes) > LARGEST:
            raise UsageError(
                f"{self.name}.codebooks = rq-kmeans-balanced has up to {LARGEST} codes a level, not "
                f"{max(self.sizes)}; set codebook_size to at most {LARGEST}, or codebooks = rq-kmeans"
            )

    def build(self, columns: int) -> Bent:
        rng = torch.Generator().manual_seed(self.seed)
        layer = self.activation, self.dropout, self.batch_norm
        there = network.mlp((columns, *self.hidden, columns), rng, *layer, zero_last=True)
        back = network.mlp((columns, *self.hidden[::-1], columns), rng, *layer, zero_last=True)
        return Bent(
            self,
            Normalizer("none", columns),
            nn.Sequential(network.Standardize(columns), there),
            ResidualVQ(self.sizes, columns, self.choices(), rng),
            nn.Sequential(network.Standardize(columns), back),
        )

    def fit(self, x: Embeddings) -> Self:
        books, placed = self._warm_start(x)
        # Codes that were placed as a whole need not be the nearest; of a file or a folder they are not known.
        self.compared_ = "nearest codewords" if placed is None else "balanced codes"
        where = str(device.resolve(self.device))
        start = residual.encode(x, books, device=where) if placed is None else placed
        self.columns_ = x.shape[1]
        model = self.build(self.columns_)
        model.prepare(x, books, self.seed)
        at_first = self._adopt(model).encode(x)
        self.agreement_ = _agreement(at_first, start)
        self.train(model, x)
        self.weights_ = network.tensors(model)
        self.kept_ = _agreement(self._adopt(model).encode(x), at_first)
        return self

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "agreement_at_step_0": self.agreement_,
            "agreement_is_with": self.compared_,
            "codes_kept_by_training": self.kept_,
        }

    def _warm_start(self, x: Embeddings) -> tuple[list[Floats], Codes | None]:
        """The codebooks, and the codes that these rows were placed at while they were learned, if so."""
        if not isinstance(self.codebooks, Path):
            return self._fitted(x)
        path = self.codebooks
        books = _from_npz(path, self.levels) if path.suffix == ".npz" else _from_folder(path)
        found = [book.shape for book in books]
        expected = [(size, x.shape[1]) for size in self.sizes]
        if found != expected:
            raise DataError(
                f"{path.name} holds codebooks of shapes {found}; levels = {self.levels}, codebook_size = "
                f"{self.codebook_size} and rows of {x.shape[1]} columns need {expected}: set levels and "
                "codebook_size to what it holds, or make codebooks from these embeddings"
            )
        if not all(np.isfinite(book).all() for book in books):
            raise DataError(f"{path.name} holds numbers that are not finite; make the codebooks again")
        return books, None

    def _fitted(self, x: Embeddings) -> tuple[list[Floats], Codes | None]:
        where = str(device.resolve(self.device))
        options: dict[str, Any] = {"iters": self.iters, "device": where}
        if self.codebooks == "rq-kmeans":
            books = residual.fit(
                x,
                self.sizes,
                lambda left, k, level: kmeans(left, k, seed=self.seed + level, **options).centers,
            )
            return books, None

        def balanced(left: Floats, k: int, level: int) -> tuple[Floats, Index]:
            lo, hi = bounds(len(left), k)
            found = balanced_kmeans(left, k, lo, hi, seed=self.seed + level, **options)
            return found.centers, found.labels

        return residual.fit_jointly(x, self.sizes, balanced)


class Bent(Autoencoder):
    """Encoder and decoder that pass their input on, plus what they learn; codebooks from a warm start.

    Rows are only scaled, by a power of two: no digit changes, and so no code.
    """

    def prepare(self, rows: Embeddings, books: list[Floats], seed: int) -> None:
        """Everything as at step 0."""
        assert isinstance(self.of, RQKMeansPlus)
        sample = sample_of(rows, self.of.sample, seed)
        ruler = Normalizer("center", rows.shape[1])
        ruler.learn(sample)
        spread = ruler.last.scale[0]
        power = torch.exp2(torch.floor(torch.log2(spread))).clamp(2.0**-60, 2.0**60)
        self.normalizer.last.scale.fill_(power)
        for net in (self.encoder, self.decoder):
            standardize = net[0]
            assert isinstance(standardize, network.Standardize)
            standardize.mean.copy_(ruler.last.mean / power)
            standardize.scale.copy_(ruler.last.scale / power)
        self.quantizer.adopt([book / power.numpy() for book in books])

    def phase(self, epoch: int) -> Hashable:
        assert isinstance(self.of, RQKMeansPlus)
        frozen = self.of.freeze if epoch < self.of.freeze_epochs else "none"
        self.encoder.requires_grad_(frozen != "encoder")
        self.quantizer.freeze(frozen == "codebooks")
        return frozen

    def latents(self, x: Tensor) -> Tensor:
        return x + super().latents(x).float()

    def decoded(self, z: Tensor) -> Tensor:
        return z + super().decoded(z).float()

    def encode(self, x: Floats) -> Floats:
        with np.errstate(over="ignore"):  # what is beyond float32 stays at its end, as in the network
            scaled: Floats = x / self.normalizer.last.scale.cpu().numpy()
            np.clip(scaled, -network.LARGEST, network.LARGEST, out=scaled)
            bent = network.rows_through(self.encoder, scaled, self.where())
            np.clip(np.add(scaled, bent, out=bent), -network.LARGEST, network.LARGEST, out=bent)
        return bent

    def decode(self, z: Floats) -> Floats:
        return self.normalizer.undo(z + network.rows_through(self.decoder, z, self.where()))


def _agreement(codes: Codes, others: Codes) -> float:
    """The part of the rows whose codes are the same at every level."""
    return float((codes == others).all(axis=1).mean())


def _from_npz(path: Path, levels: int) -> list[Floats]:
    """Codebooks in MiniOneRec's form: arrays codebook_0, codebook_1, ... of (codes, columns)."""
    if not path.exists():
        raise UsageError(f"codebooks = {path.name!r}: there is no such file")
    held = read_npz(path)
    found = {key: book for key, book in held.items() if re.fullmatch(r"codebook_\d+", key)}
    expected = {f"codebook_{level}" for level in range(levels)}
    if found.keys() != expected:
        missing = ", ".join(sorted(expected - found.keys()))
        raise DataError(
            f"{path.name} has {f'no {missing}' if missing else f'more than levels = {levels} codebooks'}; it "
            f"holds {', '.join(sorted(held)) or 'nothing'}: set levels to the number of codebooks in it"
        )
    books = []
    for level in range(levels):
        book = found[f"codebook_{level}"]
        if book.ndim != 2 or book.dtype.kind != "f":
            raise DataError(
                f"{path.name}: codebook_{level} is {book.dtype} of shape {book.shape}; expected floats of "
                "shape (codes, columns)"
            )
        books.append(np.ascontiguousarray(book, dtype=np.float32))
    return books


def _from_folder(path: Path) -> list[Floats]:
    """The codebooks of a saved tokenizer that is a residual k-means."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_dir():
        raise UsageError(
            f"codebooks = {path.name!r} is no folder; expected rq-kmeans, rq-kmeans-balanced, the folder of "
            "a saved one, or a .npz file"
        )
    about = read_about(path)
    entries = about["state"].get("codebooks_", {}).get("list", [])
    plain = about["name"] in ("rq-kmeans", "rq-kmeans-balanced")
    if not plain or about["params"].get("normalize_residuals"):
        raise UsageError(
            f"{path.name} holds a fitted {about['name']} that is no plain residual k-means; give the folder "
            "of an rq-kmeans (without normalize_residuals) or an rq-kmeans-balanced"
        )
    try:
        tensors = load_file(path / "tokenizer.safetensors")
        return [np.asarray(tensors[entry["array"]], dtype=np.float32) for entry in entries]
    except (OSError, KeyError, SafetensorError) as e:
        raise DataError(f"the tokenizer in {path.name} cannot be read ({e}); fit it again") from None
