"""rq-vae: an autoencoder whose latent is a sum of codewords, the tokenizer of TIGER."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from sidbench.errors import UsageError
from sidbench.kit.autoencoder import Autoencoder, Autoencoding, Normalization, Normalizer
from sidbench.kit.network import carries, mlp
from sidbench.kit.vq import ResidualVQ

Width = Annotated[int, Field(ge=1, le=65_536)]


class RQVAE(Autoencoding):
    """RQ-VAE: encoder and decoder learned around residual quantization."""

    name = "rq-vae"
    paper = "https://arxiv.org/abs/2305.05065"
    quick = {"epochs": 3, "hidden": (16,), "latent": 8}

    #: Columns of the latent; auto: 32, or the embedding's own number where that is smaller.
    latent: Width | Literal["auto"] = "auto"
    #: The encoder's layers (decoder in reverse); auto: powers of two from below the columns (or 256) to 64.
    hidden: tuple[Width, ...] | Literal["auto"] = "auto"
    #: Rows are centred and scaled by one number, by one a column (standard), after unit length, or left.
    normalize: Normalization = "center"

    #: First weights: networks begin as principal components, or orthogonal; auto: principal where they can.
    weights: Literal["auto", "principal", "orthogonal"] = "auto"
    #: The highest learning rate.
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-3

    def build(self, columns: int) -> Autoencoder:
        hidden, latent = self.layers(columns)
        rng = torch.Generator().manual_seed(self.seed)
        layer = self.activation, self.dropout, self.batch_norm
        return Autoencoder(
            self,
            Normalizer(self.normalize, columns),
            mlp((columns, *hidden, latent), rng, *layer),
            ResidualVQ(self.sizes, latent, self.choices(), rng),
            mlp((latent, *hidden[::-1], columns), rng, *layer),
            principal=self.first_weights(columns) == "principal",
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

    def layers(self, columns: int) -> tuple[tuple[int, ...], int]:
        """What `auto` becomes for embeddings of this width."""
        latent = min(32, columns) if self.latent == "auto" else self.latent
        if self.hidden != "auto":
            return self.hidden, latent
        widths = [1 << power for power in range(16, 5, -1)]
        return tuple(w for w in widths if 2 * latent <= w < max(columns, 257)) or (2 * latent,), latent

    def facts(self) -> dict[str, Any]:
        hidden, latent = self.layers(self.columns_)
        resolved = {"hidden": list(hidden), "latent": latent, "weights": self.first_weights(self.columns_)}
        return {**super().facts(), **resolved}
