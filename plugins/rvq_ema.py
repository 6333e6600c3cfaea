"""rvq-ema: residual vector quantization with moving-average codebooks, a codec's quantizer alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.kit import device, residual
from sidbench.kit.autoencoder import Sample, sample_of
from sidbench.kit.loop import Looped
from sidbench.kit.model import Model
from sidbench.kit.nearest import Floats
from sidbench.kit.vq import Choices, ResidualVQ
from sidbench.sids import Codes


class RVQEMA(Looped):
    """Residual VQ by moving averages, no autoencoder: what an RQ-VAE's quantizer does without its networks.

    Every batch is quantized at all levels, and each codeword follows the mean of what it was chosen for: an
    online residual k-means whose levels adapt to each other's errors. It sees a batch at a time, so any
    catalogue fits; beside rq-vae it shows what the networks add, beside rq-kmeans what joint levels add.
    """

    name = "rvq-ema"
    paper = "https://arxiv.org/abs/2107.03312"
    quick = {"epochs": 10}
    auto_steps = 500

    #: Times that the catalogue is seen; auto: as many as make 500 steps, within 5 to 1,000.
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    #: What a codeword keeps of itself at every step.
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9
    #: First codebooks: k-means a level of a sample of the rows, or random numbers.
    start: Literal["kmeans", "random"] = "kmeans"
    #: Rows at most that first codebooks are made from and revived codes are moved to.
    sample: Sample = 32_768
    #: Codes chosen less than this share of the average code since the last look move to bad rows; 0: never.
    revive: Annotated[float, Field(ge=0, lt=1)] = 0.05

    def fit(self, x: Embeddings) -> Self:
        model = Quantizer(self, x.shape[1])
        self.train(model, x)
        self.codebooks_ = model.codebooks()
        return self

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_, device=str(device.resolve(self.device)))

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)


class Quantizer(Model):
    """Centred rows at one scale, and the quantizer; nothing here has a gradient."""

    shares = True
    mean: Tensor
    scale: Tensor

    def __init__(self, of: RVQEMA, columns: int) -> None:
        super().__init__()
        self.of = of
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(()))
        rng = torch.Generator().manual_seed(of.seed)
        self.quantizer = ResidualVQ(of.sizes, columns, Choices(update="ema", decay=of.decay), rng)

    def begin(self, rows: Floats, seed: int) -> None:
        x = sample_of(rows, max(self.of.sample, *self.of.sizes), seed)
        mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x = x - mean
        spread = float(np.sqrt(np.square(x, dtype=np.float64).mean()))
        self.mean.copy_(device.tensor(mean))
        self.scale.fill_(spread or 1.0)
        self.quantizer.begin(x / np.float32(spread or 1.0), seed, self.of.start)

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    @torch.no_grad()
    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        z = self.scaled(x)
        return {"loss": (self.quantizer(z, progress).out - z).square().mean()}

    def end_epoch(self, epoch: int, rng: torch.Generator, rows: Callable[[int], Tensor]) -> None:
        if self.of.revive:
            self.eval()
            self.quantizer.revive(self.scaled(rows(self.of.sample)), self.of.revive, rng)

    def codes(self, x: Tensor) -> Tensor:
        return self.quantizer.codes(self.scaled(x))

    def codebooks(self) -> list[Floats]:
        """The codewords in the units of the rows; those of the first level hold the mean."""
        scale, mean = float(self.scale), self.mean.cpu().numpy()
        books = [np.float32(scale) * book for book in self.quantizer.books()]
        return [books[0] + mean, *books[1:]]
