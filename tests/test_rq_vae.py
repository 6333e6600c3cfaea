"""Laws of rq-vae: the conformance kit in several forms, no collapse, what `auto` becomes, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench import registry
from sidbench.dataset import Embeddings
from sidbench.errors import SidbenchError, UsageError
from sidbench.kit import network
from sidbench.testing import check_tokenizer

RQVAE = registry.find("tokenizer", "rq-vae")
RQKMeans = registry.find("tokenizer", "rq-kmeans")
TINY = {"epochs": 2, "hidden": (16,), "latent": 8}


def unit_text(n: int, d: int, seed: int = 0) -> Embeddings:
    """Like text embeddings: unit length, mostly common to all, clusters of clusters in a fading spectrum."""
    rng = np.random.default_rng(seed)
    scale: Any = (1.0 + np.arange(d)) ** -0.5
    leaves = (
        rng.normal(size=(20, d))[rng.integers(20, size=n // 5)] + 0.6 * rng.normal(size=(n // 5, d))
    ) * scale
    x = leaves[rng.integers(len(leaves), size=n)] + 0.25 * rng.normal(size=(n, d)) * scale + 2 * scale
    rows: Embeddings = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return rows


def relative_error(t: Any, x: Embeddings) -> float:
    y = t.reconstruct(t.encode(x))
    return float(np.square(x - y).sum() / np.square(x - x.mean(axis=0)).sum())


@pytest.mark.parametrize(
    "params",
    [
        {"estimator": "gumbel", "distance": "cosine", "normalize": "unit", "activation": "tanh"},
        {"estimator": "rotation", "update": "ema", "batch_norm": True, "dropout": 0.1, "shared": True,
         "codebook_size": 16, "normalize": "standard", "reconstruction": "l1"},
        {"simvq": True, "normalize_residuals": True, "activation": "gelu",
         "sinkhorn": 0.05, "sinkhorn_iters": 5},
        {"start": "balanced", "residual_gradient": "zero", "activation": "silu", "normalize": "none",
         "precision": "bf16", "select": "collision"},
    ],
    ids=["gumbel", "rotation-ema", "simvq", "balanced"],
)  # fmt: skip
def test_every_form_keeps_the_laws_of_tokenizers(params: dict[str, Any]) -> None:
    check_tokenizer(RQVAE, **TINY, **params)


def test_defaults_do_not_collapse_and_reconstruct() -> None:
    x = unit_text(2000, 64)
    fitted = RQVAE(epochs=40, batch_size=256, codebook_size=128).fit(x)
    codes = fitted.encode(x)
    used = [len(np.unique(codes[:, level])) / 128 for level in range(3)]
    assert min(used) > 0.9, used
    km = RQKMeans(codebook_size=128).fit(x)
    assert relative_error(fitted, x) < 1.25 * relative_error(km, x)
    assert fitted.curves()["loss"][-1] < fitted.curves()["loss"][0]


def test_more_levels_never_reconstruct_worse() -> None:
    x = unit_text(600, 32)
    fitted = RQVAE(levels=4, codebook_size=32, epochs=20, hidden=(64,), latent=16).fit(x)
    codes = fitted.encode(x)
    errors = [float(np.square(x - fitted.reconstruct(codes[:, : n + 1])).sum()) for n in range(4)]
    assert errors == sorted(errors, reverse=True)


def test_what_auto_becomes() -> None:
    for columns, hidden, latent in (
        (768, (512, 256, 128, 64), 32),
        (384, (256, 128, 64), 32),
        (64, (256, 128, 64), 32),
        (32, (256, 128, 64), 32),
        (8, (256, 128, 64), 8),
        (1, (256, 128, 64), 1),
    ):
        assert RQVAE().layers(columns) == (hidden, latent)
    assert RQVAE(latent=200).layers(300) == ((400,), 200)
    fitted = RQVAE(epochs=1, codebook_size=8).fit(unit_text(50, 12))
    assert fitted.facts()["latent"] == 12
    assert fitted.facts()["weights"] == "principal"
    assert RQVAE(activation="tanh").first_weights(64) == "orthogonal"


def test_principal_weights_begin_as_principal_components() -> None:
    """Before any step the latent is the projection, columns scaled by spread; the decoder undoes it."""
    x = unit_text(300, 40)
    centred = x - x.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    axes, spread = axes[:6], spread[:6] ** 1.25
    spread /= spread.mean()
    for activation in ("relu", "gelu", "silu"):
        model = RQVAE(activation=activation, latent=6, hidden=(48, 16, 12), codebook_size=8).build(40)
        model.begin(x, seed=0)
        scale = float(model.normalizer[-1].scale[0])
        z = model.encode(x)
        assert np.allclose(np.abs(z), np.abs(centred @ axes.T) * spread / scale, atol=1e-3)
        assert np.allclose(model.decode(z), centred @ axes.T @ axes + x.mean(axis=0), atol=1e-4)


def test_principal_weights_that_cannot_be_are_refused() -> None:
    x = unit_text(100, 16)
    for params in ({"activation": "tanh"}, {"hidden": (16, 10)}, {"batch_norm": True}, {"latent": 17}):
        with pytest.raises(UsageError, match="weights = orthogonal"):
            RQVAE(weights="principal", codebook_size=8, epochs=1, **{"latent": 8, **params}).fit(x)


def test_what_was_trained_is_saved_whole(tmp_path: Path) -> None:
    """Flags, running statistics and moving averages too; a loaded model does not start its codebooks anew."""
    x = unit_text(200, 16)
    fitted = RQVAE(**TINY, codebook_size=8, update="ema", batch_norm=True).fit(x)
    fitted.save(tmp_path)
    loaded = RQVAE.load(tmp_path)
    one, two = fitted._model.state_dict(), loaded._model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert bool(two["quantizer.ready"])
    loaded._model.quantizer.begin(np.ones((50, 8), dtype=np.float32), seed=0, how="kmeans")
    assert (loaded.encode(x) == fitted.encode(x)).all()


def test_every_level_may_have_its_own_epsilon() -> None:
    x = unit_text(200, 16)
    RQVAE(**TINY, codebook_size=8, sinkhorn=(0.0, 0.0, 0.05)).fit(x)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"sinkhorn": (0.0, 0.05)}, r"rq-vae\.sinkhorn names 2 epsilons for 3 levels; give"),
        ({"shared": True, "codebook_size": (4, 4, 3)}, r"rq-vae\.shared = true.*set shared = false"),
        ({"simvq": True, "update": "ema"}, r"rq-vae\.simvq = true.*set update = gradient"),
        ({"estimator": "gumbel", "sinkhorn": 0.1}, r"rq-vae\.estimator = gumbel.*set sinkhorn = 0"),
        ({"batch_norm": True, "batch_size": 1}, r"rq-vae\.batch_norm = true.*set batch_size to 2"),
        ({"sample": 1 << 25}, r"rq-vae\.sample"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RQVAE(**params)


def test_moving_averages_go_with_relaxed_draws() -> None:
    fitted = RQVAE(**TINY, codebook_size=8, estimator="gumbel", update="ema").fit(unit_text(50, 12))
    assert fitted.curves()["codebook"].tolist() == [0.0, 0.0]


def test_training_that_breaks_at_its_last_step_says_so() -> None:
    x = unit_text(50, 12)
    for lr in (1e38, 1e30):  # weights, or latents alone, are no numbers
        with pytest.raises(
            SidbenchError, match=r"rq-vae: training broke at step 1 of 1.*What may help: a low"
        ):
            RQVAE(latent=8, hidden=(16,), codebook_size=8, epochs=1, lr=lr, clip=0, revive=0.99).fit(x)


def test_networks_carry_what_is_asked() -> None:
    rng = torch.Generator().manual_seed(0)
    into, out = torch.randn(3, 10, generator=rng), torch.randn(7, 3, generator=rng)
    x = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    for sizes in ((10, 7), (10, 8, 7), (10, 9, 12, 7)):
        net = network.mlp(sizes, rng)
        network.carry(net, into, out)
        found = network.rows_through(net, x, torch.device("cpu"))
        assert np.allclose(found, x @ (out @ into).numpy().T, atol=1e-4)
