"""Laws of rq-kmeans-plus: at step 0 it is its warm start; where codebooks may come from, and may not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench import registry
from sidbench.dataset import Embeddings
from sidbench.errors import DataError, UsageError
from sidbench.formats import safe
from sidbench.kit import residual
from sidbench.plugin import configure, parameter_types
from sidbench.testing import catalogue, check_tokenizer

Plus = registry.find("tokenizer", "rq-kmeans-plus")
RQKMeans = registry.find("tokenizer", "rq-kmeans")
Balanced = registry.find("tokenizer", "rq-kmeans-balanced")
TINY = {"hidden": (8,), "codebook_size": 12, "iters": 4}


def data(n: int = 400, d: int = 20) -> Embeddings:
    return catalogue(n, d) * np.float32(0.03) + np.float32(0.2)


def relative_error(t: Any, x: Embeddings) -> float:
    y = t.reconstruct(t.encode(x))
    return float(np.square(x - y).sum() / np.square(x - x.mean(axis=0)).sum())


def npz(path: Path, books: list[Any], **more: Any) -> Path:
    np.savez(path, **{f"codebook_{i}": book.astype(np.float64) for i, book in enumerate(books)}, **more)
    return path


@pytest.mark.parametrize(
    "params",
    [
        {"codebooks": "rq-kmeans-balanced", "update": "ema", "freeze": "encoder", "activation": "gelu"},
        {"estimator": "rotation", "freeze": "codebooks", "batch_norm": True, "reconstruction": "l1"},
        {"simvq": True, "hidden": (), "epochs": 0},
    ],
    ids=["balanced-ema", "rotation", "simvq"],
)
def test_every_form_keeps_the_laws_of_tokenizers(params: dict[str, Any]) -> None:
    check_tokenizer(Plus, **{**Plus.quick, **params})


def test_before_the_first_step_it_is_residual_k_means() -> None:
    """Not nearly: codes and reconstruction to the bit, far from the origin and at any scale."""
    for x in (data(), 1e-4 * data(), 1e5 * data()):
        start = RQKMeans(codebook_size=12, iters=4).fit(x)
        fitted = Plus(**TINY, epochs=0).fit(x)
        unseen = np.concatenate([x, 1.5 * x[::-1]])
        assert (fitted.encode(unseen) == start.encode(unseen)).all()
        codes = start.encode(x)
        assert np.allclose(fitted.reconstruct(codes), start.reconstruct(codes), rtol=1e-6)
        assert fitted.facts()["agreement_at_step_0"] == 1.0
        assert fitted.facts()["agreement_is_with"] == "nearest codewords"
        assert fitted.facts()["codes_kept_by_training"] == 1.0


def test_a_balanced_start_says_how_many_codes_are_not_the_nearest() -> None:
    x = data()
    start = Balanced(codebook_size=12, iters=4)
    placed = start.fit_encode(x)
    fitted = Plus(**TINY, codebooks="rq-kmeans-balanced", epochs=0).fit(x)
    assert (fitted.encode(x) == start.encode(x)).all()
    agreement = fitted.facts()["agreement_at_step_0"]
    assert agreement == float((placed == start.encode(x)).all(axis=1).mean()) < 1

    assert fitted.facts()["agreement_is_with"] == "balanced codes"
    trained = Plus(**TINY, codebooks="rq-kmeans-balanced", epochs=3).fit(x)
    assert trained.facts()["agreement_at_step_0"] == agreement


def test_the_agreement_at_step_0_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that begins elsewhere than at its start says so."""
    x = data()
    build = Plus.build

    def bent(self: Any, columns: int) -> Any:
        model = build(self, columns)
        torch.nn.init.normal_(model.encoder[1][-1].weight, generator=torch.Generator().manual_seed(0))
        return model

    monkeypatch.setattr(Plus, "build", bent)
    fitted = Plus(**TINY, epochs=0).fit(x)
    start = RQKMeans(codebook_size=12, iters=4).fit(x).encode(x)
    agreement = fitted.facts()["agreement_at_step_0"]
    assert agreement == float((fitted.encode(x) == start).all(axis=1).mean()) < 0.9
    assert fitted.facts()["codes_kept_by_training"] == 1.0


def test_training_goes_on_from_there() -> None:
    x = data(800)
    before = relative_error(Plus(**TINY, epochs=0).fit(x), x)
    fitted = Plus(**TINY, epochs=30).fit(x)
    assert relative_error(fitted, x) < before
    loss = fitted.curves()["reconstruction"]
    assert loss[-1] < loss[0]
    assert 0.3 < fitted.facts()["codes_kept_by_training"] < 1


@pytest.mark.parametrize(("update", "simvq"), [("gradient", False), ("gradient", True), ("ema", False)])
def test_what_is_frozen_stays(update: str, simvq: bool) -> None:
    x = data()
    options = {**TINY, "update": update, "simvq": simvq, "revive": 0.5, "freeze_epochs": 3}
    start = [book.copy() for book in Plus(**options, epochs=0).fit(x)._books]
    fitted = Plus(**options, freeze="codebooks", epochs=3).fit(x)
    assert all((a == b).all() for a, b in zip(start, fitted._books, strict=True))
    assert any((p != 0).any() for p in fitted._model.encoder[1][-1].parameters())
    fitted = Plus(**options, freeze="encoder", epochs=3).fit(x)
    assert all((p == 0).all() for p in fitted._model.encoder[1][-1].parameters())
    assert any((a != b).any() for a, b in zip(start, fitted._books, strict=True))
    fitted = Plus(**options, freeze="encoder", epochs=4).fit(x)
    assert any((p != 0).any() for p in fitted._model.encoder[1][-1].parameters())


def test_codebooks_from_a_file_and_from_a_saved_tokenizer(tmp_path: Path) -> None:
    x = data()
    start = RQKMeans(levels=2, codebook_size=(12, 7)).fit(x)
    start.save(tmp_path / "saved")
    file = npz(tmp_path / "books.npz", start.codebooks_, codebook_size=np.array([12, 7]))
    options = {"levels": 2, "codebook_size": (12, 7), "hidden": (8,), "epochs": 0}
    for source in (file, tmp_path / "saved"):
        fitted = Plus(**options, codebooks=str(source)).fit(x)
        assert (fitted.encode(x) == residual.encode(x, start.codebooks_)).all()
        assert fitted.facts()["agreement_at_step_0"] == 1.0


def test_files_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data()
    books = RQKMeans(codebook_size=12).fit(x).codebooks_

    def said(error: type[Exception], match: str, **params: Any) -> None:
        with pytest.raises(error, match=match):
            Plus(**{**TINY, "epochs": 0, **params}).fit(x)

    said(DataError, "has no codebook_2; it holds codebook_0, codebook_1",
         codebooks=str(npz(tmp_path / "two.npz", books[:2])))  # fmt: skip
    said(
        DataError, r"need \[\(12, 20\)", codebooks=str(npz(tmp_path / "wide.npz", [b[:, 1:] for b in books]))
    )
    said(DataError, "codebook_size to what it holds",
         codebooks=str(npz(tmp_path / "large.npz", books)), codebook_size=16)  # fmt: skip
    said(DataError, r"shape \(12,\)", codebooks=str(npz(tmp_path / "flat.npz", [b[:, 0] for b in books])))
    broken = [books[0], books[1], np.full_like(books[2], np.nan)]
    said(DataError, "not finite", codebooks=str(npz(tmp_path / "nan.npz", broken)))
    (tmp_path / "torn.npz").write_bytes(b"PK no zip")
    said(DataError, "cannot be read", codebooks=str(tmp_path / "torn.npz"))
    whole = npz(tmp_path / "whole.npz", books).read_bytes()
    at = whole.index(b"NUMPY") + 200  # numbers that the archive has a checksum of
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, books[0])
    with (tmp_path / "packed.npz").open("wb") as file:
        np.savez_compressed(file, codebook_0=books[0])
    packed = (tmp_path / "packed.npz").read_bytes()
    for name, content in {
        "empty.npz": b"",
        "text.npz": b"no zip",
        "cut.npz": whole[: len(whole) // 2],
        "flipped.npz": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        "packed.npz": packed[:80] + bytes(byte ^ 255 for byte in packed[80:120]) + packed[120:],
        "array.npz": (tmp_path / "array.npz").read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(content)
        said(DataError, f"{name} cannot be read as an .npz file", codebooks=str(tmp_path / name))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codebook_0.npy", bytes(8 << 20))
    monkeypatch.setattr(safe, "SMALL", 1 << 20)
    said(DataError, "as a zip bomb does", codebooks=str(tmp_path / "bomb.npz"))
    said(DataError, "more than levels = 2 codebooks; .*set levels",
         codebooks=str(tmp_path / "whole.npz"), levels=2)  # fmt: skip
    said(UsageError, "no such file", codebooks=str(tmp_path / "none.npz"))
    said(UsageError, "expected rq-kmeans, rq-kmeans-balanced", codebooks="kmeans")
    registry.find("tokenizer", "random")(codebook_size=12).fit(x).save(tmp_path / "random")
    registry.find("tokenizer", "opq")(codebook_size=12).fit(x).save(tmp_path / "opq")
    for name in ("random", "opq"):
        said(UsageError, "no plain residual k-means", codebooks=str(tmp_path / name))


def test_a_balanced_start_of_too_many_codes_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 4096, or codebooks = rq-kmeans"):
        Plus(codebooks="rq-kmeans-balanced", codebook_size=(4096, 16, 4097))


@pytest.mark.parametrize("params", [{"shared": True}, {"normalize_residuals": True}, {"distance": "cosine"}])
def test_what_its_start_settles_is_no_parameter(params: dict[str, Any]) -> None:
    """Neither offered nor taken, though rq-vae has it."""
    assert not params.keys() & parameter_types(Plus).keys()
    assert params.keys() <= parameter_types(registry.find("tokenizer", "rq-vae")).keys()
    with pytest.raises(UsageError, match="has no parameter"):
        configure(Plus, params)


def test_rows_pass_unchanged_by_a_power_of_two() -> None:
    x = data()
    model = Plus(**TINY, epochs=0).fit(x)._model
    scale = float(model.normalizer.last.scale[0])
    assert np.frexp(scale)[0] == 0.5
    assert (model.encode(x) * np.float32(scale) == x).all()
    with torch.no_grad():
        assert torch.equal(model.latents(torch.ones(2, 20)), torch.ones(2, 20))
