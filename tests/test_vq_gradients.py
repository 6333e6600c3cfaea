"""Gradients of the quantizer, by formula and by difference: estimators and losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.kit import estimators
from tests.quantizers import by_difference, latents, losses, quantizer

# ---------------------------------------------------------------------------------------------- estimators


def test_straight_through_has_the_value_of_the_codeword_and_the_gradient_of_the_latent() -> None:
    z, q, pull = latents(), latents(seed=1).detach(), latents(seed=2).detach()
    out = estimators.straight_through(z, q)
    assert torch.allclose(out, q)
    torch.autograd.backward((out * pull).sum())
    assert z.grad is not None
    assert torch.equal(z.grad, pull)


def test_rotation_is_the_turn_of_the_paper() -> None:
    """Its gradient is that of z -> |q|/|z| R z, the rotation R from z's direction to q's held constant."""
    z, q, pull = latents(7), latents(7, seed=1).detach(), latents(7, seed=2).detach()
    out = estimators.rotation(z, q)
    assert torch.allclose(out, q)
    torch.autograd.backward((out * pull).sum())
    assert z.grad is not None
    for i in range(len(z)):
        e, f = (v / v.norm() for v in (z[i].detach(), q[i]))
        w = (e + f) / (e + f).norm()
        turn = torch.eye(6).double() - 2 * torch.outer(w, w) + 2 * torch.outer(f, e)
        assert torch.allclose(turn @ e, f)
        assert torch.allclose(turn @ turn.T, torch.eye(6).double())
        assert torch.allclose(z.grad[i], q[i].norm() / z[i].norm() * turn.T @ pull[i])
    held = by_difference(
        lambda moved: (
            (estimators._length(q) / estimators._length(z.detach()))
            * torch.stack([_turn(a, b) @ m for a, b, m in zip(z.detach(), q, moved, strict=True)])
            * pull
        ).sum(),
        z,
    )
    assert torch.allclose(held, z.grad, atol=1e-6)


def _turn(z: Tensor, q: Tensor) -> Tensor:
    e, f = z / z.norm(), q / q.norm()
    w = (e + f) / (e + f).norm()
    return torch.eye(len(z)).double() - 2 * torch.outer(w, w) + 2 * torch.outer(f, e)


def test_rotation_of_nothing_and_of_an_opposite_is_finite() -> None:
    z = torch.stack([torch.zeros(4), torch.ones(4), torch.ones(4)]).requires_grad_()
    q = torch.stack([torch.ones(4), torch.zeros(4), -torch.ones(4)])
    out = estimators.rotation(z, q)
    torch.autograd.backward(out.sum())
    assert z.grad is not None
    assert torch.isfinite(out).all()
    assert torch.isfinite(z.grad).all()
    assert torch.allclose(out, q)
    assert torch.equal(z.grad[0], torch.ones(4))  # what has no direction goes straight through


def test_gumbel_is_a_softmax_whose_gradient_is_by_difference() -> None:
    squares, noise = latents(4, 5).square(), torch.rand(4, 5).double()
    temperature, pull = torch.tensor(0.7).double(), torch.rand(4, 5).double()
    scale = squares.detach().amin(dim=1).mean()
    weights = estimators.gumbel(squares, noise, temperature)
    assert torch.allclose(weights, torch.softmax(noise - squares.detach() / (0.7 * scale), dim=1))
    at = squares.detach().requires_grad_()
    torch.autograd.backward((estimators.gumbel(at, noise, temperature) * pull).sum())
    held = by_difference(lambda s: (torch.softmax(noise - s / (0.7 * scale), dim=1) * pull).sum(), at)
    assert at.grad is not None
    assert torch.allclose(at.grad, held, atol=1e-6)


def test_gumbel_draws_as_often_as_its_weights_say() -> None:
    torch.manual_seed(0)
    squares = torch.tensor([[1.0, 1.5, 2.0, 4.0]]).repeat(40_000, 1)
    noise = estimators.gumbel_noise(squares.shape, squares)
    drawn = estimators.gumbel(squares, noise, torch.tensor(0.5)).argmax(dim=1)
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(found, torch.softmax(-squares[0] / 0.5, dim=0), atol=0.01)


def test_gumbel_ends_at_the_nearest_codeword() -> None:
    q = quantizer(estimator="gumbel", temperature=(1.0, 1e-4)).train()
    z = latents()
    assert torch.equal(losses(q, z).codes, losses(q.eval(), z).codes)


def test_gumbel_teaches_latents_and_codewords_by_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all levels: what is left over after a relaxed draw has that draw's gradient."""
    monkeypatch.setattr(
        estimators, "gumbel", lambda squares, noise, t: torch.softmax(noise - squares / t, dim=1)
    )  # its scale is held constant, which differences would not do
    choices: dict[str, Any] = {"estimator": "gumbel", "temperature": (1.0, 0.8)}
    q, z, pull = quantizer(**choices).train(), latents(6), latents(6, seed=5).detach()
    first = q.tables[0]

    def value(of: Tensor | None = None, table: Tensor | None = None) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            kept = first.clone()
            first.copy_(kept if table is None else table)
            found = losses(q, z if of is None else of).out
            first.copy_(kept)
        return (found * pull).sum()

    torch.manual_seed(3)
    torch.autograd.backward((losses(q, z).out * pull).sum())
    assert z.grad is not None
    assert first.grad is not None
    assert torch.allclose(z.grad, by_difference(lambda of: value(of=of), z), atol=1e-6)
    assert torch.allclose(first.grad, by_difference(lambda table: value(table=table), first), atol=1e-6)


# --------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
@pytest.mark.parametrize("simvq", [False, True])
def test_losses_are_sums_over_dimensions_and_levels_and_means_over_rows(estimator: str, simvq: bool) -> None:
    q, z = quantizer(estimator=estimator, simvq=simvq), latents()
    found = losses(q.eval(), z)
    r, expected = z.detach().numpy(), 0.0
    for level, book in enumerate(q.books()):
        codes = np.square(r[:, None] - book).sum(axis=2).argmin(axis=1)
        assert (codes == found.codes[:, level].numpy()).all()
        r = r - book[codes]
        expected += float(np.square(r).sum(axis=1).mean())
    assert found.commitment.item() == pytest.approx(expected)
    assert found.codebook.item() == pytest.approx(expected)
    assert np.allclose(z.detach().numpy() - r, found.out.detach().numpy())


def test_the_commitment_of_every_level_reaches_the_encoder() -> None:
    """By formula: the gradient is 2/n times the sum over levels of what is left over after each."""
    q, z = quantizer(), latents()
    torch.autograd.backward(losses(q, z).commitment)
    books, codes = [torch.from_numpy(b) for b in q.books()], losses(q, z).codes
    left, expected = z.detach(), torch.zeros_like(z)
    for level, book in enumerate(books):
        left = left - book[codes[:, level]]
        expected += 2 * left / len(z)
    assert z.grad is not None
    assert torch.allclose(z.grad, expected)
    fixed = codes.numpy()

    def value(moved: Tensor) -> Tensor:
        r, total = moved, torch.zeros(()).double()
        for level, book in enumerate(books):
            r = r - book[fixed[:, level]]
            total = total + r.square().sum(dim=1).mean()
        return total

    assert torch.allclose(by_difference(value, z), z.grad, atol=1e-6)


def test_the_parity_switch_stops_it_after_the_first_level() -> None:
    q, z = quantizer(residual_gradient="zero"), latents()
    found = losses(q, z)
    torch.autograd.backward(found.commitment)
    left = z.detach() - torch.from_numpy(q.books()[0])[found.codes[:, 0]]
    assert z.grad is not None
    assert torch.allclose(z.grad, 2 * left / len(z))
    assert found.commitment.item() == pytest.approx(losses(quantizer(), z).commitment.item())


def test_the_codebook_loss_moves_codewords_towards_their_rows() -> None:
    q, z = quantizer(sizes=(5,)), latents()
    found = losses(q, z)
    torch.autograd.backward(found.codebook)
    assert z.grad is None or bool((z.grad == 0).all())
    for code in range(5):
        members = z.detach()[found.codes[:, 0] == code]
        grad = q.tables[0].grad
        assert grad is not None
        assert torch.allclose(grad[code], 2 * (q.tables[0][code] - members).sum(dim=0) / len(z))


def test_simvq_teaches_the_map_and_leaves_the_tables() -> None:
    q, z = quantizer(simvq=True), latents()
    before = [t.detach().clone() for t in q.tables]
    torch.autograd.backward(losses(q, z).codebook)
    assert all(not t.requires_grad and torch.equal(t, b) for t, b in zip(q.tables, before, strict=True))
    assert all(t.grad is not None and (t.grad != 0).any() for t in q.turns)
