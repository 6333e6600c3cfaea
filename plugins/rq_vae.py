"""rq-vae: an autoencoder whose latent is a sum of codewords, the tokenizer of TIGER."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from sidbench.kit.autoencoder import Autoencoder, Autoencoding, Normalization, Normalizer
from sidbench.kit.network import mlp
from sidbench.kit.vq import ResidualVQ

Width = Annotated[int, Field(ge=1, le=65_536)]


class RQVAE(Autoencoding):
    """RQ-VAE: encoder and decoder learned around residual quantization."""

    name = "rq-vae"
    paper = "https://arxiv.org/abs/2305.05065"
    quick = {"epochs": 3, "hidden": (16,), "latent": 8}

    #: Columns of the latent; auto: 32, or the embedding's own number where that is smaller.
    latent: Width | Literal["auto"] = "auto"
    #: Layers of the encoder (decoder in reverse); auto: powers of two from below the columns to 2 x latent.
    hidden: tuple[Width, ...] | Literal["auto"] = "auto"
    #: Rows are centred and scaled by one number, by one a column (standard), after unit length, or left.
    normalize: Normalization = "center"

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
        )

    def layers(self, columns: int) -> tuple[tuple[int, ...], int]:
        """What `auto` becomes for embeddings of this width."""
        latent = min(32, columns) if self.latent == "auto" else self.latent
        if self.hidden != "auto":
            return self.hidden, latent
        widest = max(256, 1 << ((columns - 1).bit_length() - 1))
        steps = range(widest.bit_length() - 1, 0, -1)
        return tuple(1 << s for s in steps if 1 << s >= 2 * latent), latent

    def facts(self) -> dict[str, Any]:
        hidden, latent = self.layers(self.columns_)
        return {**super().facts(), "hidden": list(hidden), "latent": latent}
