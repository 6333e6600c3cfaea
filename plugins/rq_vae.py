"""rq-vae: an autoencoder whose latent is a sum of codewords, the tokenizer of TIGER."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from sidbench.dataset import Embeddings
from sidbench.errors import UsageError
from sidbench.kit import sampling
from sidbench.kit.autoencoder import Autoencoder, Autoencoding, Normalization, Normalizer, sample_of
from sidbench.kit.device import tensor
from sidbench.kit.nearest import Floats
from sidbench.kit.network import Activation, carries, carry, mlp
from sidbench.kit.vq import ResidualVQ, Start

PRINCIPAL_ROWS = 8192  # that principal axes are taken from, at most
STEEP = 1.25  # power of its own spread that scales a latent's column, where the encoder begins principal
LEAST = 0.01  # scale of a latent's column next to the mean, however little varies along it
Width = Annotated[int, Field(ge=1, le=65_536)]


class RQVAE(Autoencoding):
    """RQ-VAE: encoder and decoder learned around residual quantization."""

    name = "rq-vae"
    paper = "https://arxiv.org/abs/2305.05065"
    quick = {"epochs": 3, "hidden": (16,), "latent": 8}
    auto_steps = 600  # from principal axes, more steps gain little
    added: ClassVar[tuple[str, ...]] = ("train_sample",)

    #: Times that the catalogue is seen; auto: as many as make 600 steps, within 5 to 1,000.
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    #: Columns of the latent; auto: 32, or the embedding's own number where that is smaller.
    latent: Width | Literal["auto"] = "auto"
    #: The encoder's layers (decoder in reverse); auto: powers of two from below the columns (or 256) to 64.
    hidden: tuple[Width, ...] | Literal["auto"] = "auto"
    #: center: mean 0, one scale; standard: one scale a column; unit: length one, then center; none: as is.
    normalize: Normalization = "center"

    #: First codebooks: k-means of the latents, k-means with even clusters, or random numbers.
    start: Start = "kmeans"
    #: First weights: principal (encoder a PCA, decoder its inverse) or orthogonal; auto: principal if it can.
    weights: Literal["auto", "principal", "orthogonal"] = "auto"
    #: The encoder's learning rate is lr times this; auto: 0.01 where weights are principal, otherwise 1.
    encoder_pace: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    #: The activation between layers.
    activation: Activation = "silu"
    #: The highest learning rate.
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-3
    #: fp32, or products in bf16; auto: bf16 on CUDA, and for wide networks on a processor that has it.
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    #: Rows that training sees, drawn by the seed; 0: all. Rows of a mapped file are read as they are needed.
    train_sample: Annotated[int, Field(ge=0)] = 0

    def fit(self, x: Embeddings) -> Self:
        drawn = sampling.sample_of(self, x, self.train_sample)
        super().fit(x if drawn is None else x[drawn])
        self.sampled_ = sampling.effect(self, x, drawn)
        return self

    def restore(self, state: dict[str, Any]) -> Self:
        return super().restore({"sampled_": {}, **state})  # saved before there were samples

    def build(self, columns: int) -> Autoencoder:
        hidden, latent = self.layers(columns)
        rng = torch.Generator().manual_seed(self.seed)
        layer = self.activation, self.dropout, self.batch_norm
        return Coder(
            self,
            Normalizer(self.normalize, columns),
            mlp((columns, *hidden, latent), rng, *layer),
            ResidualVQ(self.sizes, latent, self.choices(), rng),
            mlp((latent, *hidden[::-1], columns), rng, *layer),
            start=self.start,
            principal=self.first_weights(columns) == "principal",
            encoder_pace=self.pace_of_encoder(columns),
        )

    def first_weights(self, columns: int) -> str:
        """What `weights = auto` becomes for embeddings of this width."""
        hidden, latent = self.layers(columns)
        able = latent <= columns and carries((columns, *hidden, latent), self.activation, self.batch_norm)
        if self.weights == "principal" and not able:
            raise UsageError(
                f"{self.name}: weights = principal needs relu, gelu or silu, no batch_norm, layers at least "
                f"twice as wide as the latent ({latent}) and that no wider than the rows ({columns}); set "
                "weights = orthogonal"
            )
        return "principal" if able and self.weights != "orthogonal" else "orthogonal"

    def pace_of_encoder(self, columns: int) -> float:
        """What `encoder_pace = auto` becomes for embeddings of this width."""
        if self.encoder_pace != "auto":
            return self.encoder_pace
        return 0.01 if self.first_weights(columns) == "principal" else 1.0

    def layers(self, columns: int) -> tuple[tuple[int, ...], int]:
        """What `auto` becomes for embeddings of this width."""
        latent = min(32, columns) if self.latent == "auto" else self.latent
        if self.hidden != "auto":
            return self.hidden, latent
        widths = [1 << power for power in range(16, 5, -1)]
        return tuple(w for w in widths if 2 * latent <= w < max(columns, 257)) or (2 * latent,), latent

    def facts(self) -> dict[str, Any]:
        hidden, latent = self.layers(self.columns_)
        resolved = {
            "hidden": list(hidden),
            "latent": latent,
            "weights": self.first_weights(self.columns_),
            "encoder_pace": self.pace_of_encoder(self.columns_),
        }
        return {**super().facts(), **resolved, **({"sampled": self.sampled_} if self.sampled_ else {})}


class Coder(Autoencoder):
    """The autoencoder with its own start: weights from principal axes, codebooks from the first latents."""

    def __init__(self, *parts: Any, start: Start, principal: bool, encoder_pace: float) -> None:
        super().__init__(*parts)
        self.start, self.principal, self.encoder_pace = start, principal, encoder_pace

    def pace(self) -> dict[str, float]:
        return {"encoder": self.encoder_pace}

    def begin(self, rows: Floats, seed: int) -> None:
        sample = sample_of(rows, max(self.of.sample, *self.of.sizes), seed)
        self.normalizer.learn(sample)
        if self.principal:
            axes, scale = self._principal(sample[:: -(-len(sample) // PRINCIPAL_ROWS)])
            straight = torch.eye(len(axes), device=axes.device)
            carry(self.encoder, axes * scale[:, None], straight)
            carry(self.decoder, straight, axes.T / scale)
        self.quantizer.begin(self.encode(sample), seed, self.start)

    def _principal(self, rows: Floats) -> tuple[Tensor, Tensor]:
        """As many leading principal axes of the normalised rows as the latent has columns, and their scales.

        A column is scaled by a power of its own spread: codebooks that all residuals of a level share fit a
        steep spectrum better than a flat one, and fewer items come to share their codes.
        """
        x: Tensor = self.normalizer(tensor(rows).to(self.where())).double()
        squares, axes = torch.linalg.eigh(x.T @ x)
        leading: Tensor = axes.flip(1)[:, : self.quantizer.dim].T
        # An axis has no sign of its own: its largest number is positive.
        largest = leading.gather(1, leading.abs().argmax(dim=1, keepdim=True))
        spread = squares.flip(0)[: self.quantizer.dim].clamp_min(0) ** (STEEP / 2)
        scale = (spread / spread.mean().clamp_min(1e-30)).clamp_min(LEAST)
        return torch.mul(leading, largest.sign()).float(), scale.float()
