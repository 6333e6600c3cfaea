"""An autoencoder around a residual quantizer: the model, and the parameters of methods that train one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.kit import device, network, residual, vq
from sidbench.kit.estimators import Estimator
from sidbench.kit.model import Model
from sidbench.kit.nearest import Floats
from sidbench.kit.network import Standardize, UnitRows, unit_rows
from sidbench.kit.training import Trained
from sidbench.sids import Codes

HELD = 1 << 26  # numbers of an embedding that are encoded at once
Normalization = Literal["center", "standard", "unit", "none"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sample = Annotated[int, Field(ge=1, le=1 << 24)]  # more rows at once torch.multinomial cannot draw from


class Quantizing(Trained):
    """Base of methods that learn a residual quantizer by gradient: the quantizer's parameters."""

    group = "The quantizer's"

    #: How gradients pass the choice of codewords.
    estimator: Estimator = "straight-through"
    #: First and last temperature of gumbel, in units of the squared distance to the nearest codeword.
    temperature: tuple[Positive, Positive] = (1.0, 0.05)
    #: Weight of the commitment: squared latent less codeword, summed over dimensions and levels, rows' mean.
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.25
    #: Codebooks learn by gradient (codebook loss, reduced as the commitment, weight 1) or by moving averages.
    update: Literal["gradient", "ema"] = "gradient"
    #: What a moving average keeps at every step.
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    #: Codes chosen less than this share of the average code since the last look move to bad rows; 0: never.
    revive: Annotated[float, Field(ge=0, lt=1)] = 0.05
    #: Rows at most that first codebooks are made from and revived codes are moved to.
    sample: Sample = 32_768
    #: Sinkhorn's epsilon in training, for all levels or each (costs from -1 to 1); 0: the nearest codeword.
    sinkhorn: Epsilon | tuple[Epsilon, ...] = 0.0
    #: Iterations of Sinkhorn's assignment.
    sinkhorn_iters: Annotated[int, Field(ge=1)] = 50
    #: What is nearest: by Euclidean distance, or by angle.
    distance: Literal["euclidean", "cosine"] = "euclidean"
    #: Bring what is left over to length one at every level.
    normalize_residuals: bool = False
    #: One codebook for all levels.
    shared: bool = False
    #: SimVQ: fixed tables under one learned map a level, so that a step moves every codeword.
    simvq: bool = False
    #: Whether the commitment of levels beyond the first reaches the encoder; zero is how most code has it.
    residual_gradient: Literal["full", "zero"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choices().check(self.sizes, self.name)

    def choices(self) -> vq.Choices:
        """The quantizer's own parts of the parameters."""
        epsilon = self.sinkhorn if isinstance(self.sinkhorn, tuple) else (self.sinkhorn,) * self.levels
        return vq.Choices(
            estimator=self.estimator,
            temperature=self.temperature,
            epsilon=epsilon,
            sinkhorn_iters=self.sinkhorn_iters,
            update=self.update,
            decay=self.decay,
            distance=self.distance,
            normalize=self.normalize_residuals,
            shared=self.shared,
            simvq=self.simvq,
            residual_gradient=self.residual_gradient,
        )


class Autoencoding(Quantizing):
    """Base of methods with an encoder before and a decoder after the quantizer: the networks' parameters."""

    group = "The networks'"

    #: The activation between layers.
    activation: network.Activation = "relu"
    #: Share of numbers dropped after every activation, in training.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    #: Batch normalisation before every activation.
    batch_norm: bool = False
    #: Squared or absolute error of the normalised rows, summed over dimensions, averaged over rows.
    reconstruction: Literal["mse", "l1"] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_norm and self.batch_size == 1:
            raise UsageError(
                f"{self.name}.batch_norm = true needs rows to compare; set batch_size to 2 or more, or "
                "batch_norm = false"
            )

    @abstractmethod
    def build(self, columns: int) -> Autoencoder:
        """The model for rows of this width, not yet trained: what `fit` trains and `load` fills again."""

    def fit(self, x: Embeddings) -> Self:
        model = self.build(x.shape[1])
        self.train(model, x)
        self.columns_, self.weights_ = x.shape[1], network.tensors(model)
        return self._adopt(model)

    def encode(self, x: Embeddings) -> Codes:
        residual.check_columns(x, self.columns_)
        codes = np.empty((len(x), self.levels), dtype=np.int32)
        step = max(1024, HELD // x.shape[1])  # latents are held for so many rows at a time
        where = str(self._model.where())
        for at in range(0, len(x), step):
            part = slice(at, at + step)
            codes[part] = vq.encode(self._model.encode(x[part]), self._books, self.choices(), where)
        return codes

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        residual.check_columns(x, self.columns_)
        return vq.costs(self._model.encode(x), prefix, self._books, self.choices())

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return self._model.decode(residual.reconstruct(codes, self._books))

    def restore(self, state: dict[str, Any]) -> Self:
        super().restore(state)
        model = self.build(self.columns_)
        network.put_back(model, self.weights_)
        return self._adopt(model)

    def _adopt(self, model: Autoencoder) -> Self:
        self._model = model.to(device.resolve(self.device)).eval()
        self._books = model.quantizer.books()
        return self


class Autoencoder(Model):
    """Rows are normalised, encoded, quantized, and decoded from the sum of their codewords."""

    shares = True

    def __init__(
        self,
        of: Autoencoding,
        normalizer: Normalizer,
        encoder: nn.Sequential,
        quantizer: vq.ResidualVQ,
        decoder: nn.Sequential,
    ) -> None:
        super().__init__()
        self.of, self.normalizer = of, normalizer
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    def latents(self, x: Tensor) -> Tensor:
        """What the quantizer gets of normalised rows."""
        z: Tensor = self.encoder(x)
        return z

    def decoded(self, z: Tensor) -> Tensor:
        """Normalised rows of what the quantizer gives."""
        y: Tensor = self.decoder(z)
        return y

    def losses(self, x: Tensor, progress: Tensor) -> dict[str, Tensor]:
        x = self.normalizer(x)
        found = self.quantizer(self.latents(x), progress)
        gap = self.decoded(found.out).float() - x
        error = gap.square() if self.of.reconstruction == "mse" else gap.abs()
        reconstruction = error.sum(dim=1).mean()
        loss = reconstruction + self.of.beta * found.commitment + found.codebook
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "commitment": found.commitment,
            "codebook": found.codebook,
        }

    def end_epoch(self, epoch: int, rng: torch.Generator, rows: Callable[[int], Tensor]) -> None:
        if self.of.revive and self.quantizer.fading(self.of.revive):
            self.eval()
            latents = self.latents(self.normalizer(rows(self.of.sample)))
            self.quantizer.revive(latents, self.of.revive, rng)

    def codes(self, x: Tensor) -> Tensor:
        return self.quantizer.codes(self.latents(self.normalizer(x)))

    def encode(self, x: Floats) -> Floats:
        """The latents of any rows; a row's are a function of that row alone, to the bit."""
        return network.rows_through(nn.Sequential(*self.normalizer, self.encoder), x, self.where())

    def decode(self, z: Floats) -> Floats:
        """Rows from sums of codewords, in the input's own units."""
        return self.normalizer.undo(network.rows_through(self.decoder, z, self.where()))

    def where(self) -> torch.device:
        """The device that it is on."""
        return next(self.parameters()).device


class Normalizer(nn.Sequential):
    """What is done to rows before the encoder, by name, and how to undo it."""

    def __init__(self, how: Normalization, columns: int) -> None:
        self.how = how
        unit = [UnitRows()] if how == "unit" else []
        super().__init__(*unit, Standardize(columns))

    def learn(self, rows: Floats) -> None:
        """Mean and scale of the rows: one scale for all columns, or with `standard` one for each."""
        if self.how == "none":
            return
        if self.how == "unit":
            rows = unit_rows(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        variance = np.square(rows - mean).mean(axis=0)
        if self.how != "standard":
            variance = np.full_like(variance, variance.mean())
        last = self.last
        last.mean.copy_(torch.from_numpy(mean))
        # A column that does not vary says nothing, at any scale.
        last.scale.copy_(torch.from_numpy(np.sqrt(np.where(variance > 0, variance, 1.0))))

    def undo(self, x: Floats) -> Floats:
        """Back to the input's units (rows that were brought to length one stay near it)."""
        last = self.last
        undone: Floats = x * last.scale.cpu().numpy() + last.mean.cpu().numpy()
        return undone

    @property
    def last(self) -> Standardize:
        """The centring and scaling."""
        last = self[-1]
        assert isinstance(last, Standardize)
        return last


def sample_of(rows: Floats, count: int, seed: int) -> Floats:
    """So many different rows, in their order; all, where there are fewer."""
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]
