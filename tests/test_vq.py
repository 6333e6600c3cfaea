"""Laws of the quantizer: gradients by formula and by difference, codebooks, revival, exact codes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.errors import UsageError
from sidbench.kit import estimators, residual, vq
from sidbench.kit.nearest import Floats
from sidbench.kit.network import unit_rows

END = torch.ones(())


def rows(n: int, d: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def quantizer(
    sizes: tuple[int, ...] = (5, 4, 3), dim: int = 6, seed: int = 0, **choices: Any
) -> vq.ResidualVQ:
    rng = torch.Generator().manual_seed(seed)
    return vq.ResidualVQ(sizes, dim, vq.Choices(**choices), rng).double()


def latents(n: int = 40, d: int = 6, seed: int = 0) -> Tensor:
    return torch.from_numpy(rows(n, d, seed)).double().requires_grad_()


def losses(q: vq.ResidualVQ, z: Tensor) -> vq.Quantized:
    # Double precision throughout, for differences; `forward` would bring latents to float32.
    return q._forward(z, END)


def by_difference(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a scalar by central differences."""
    found = torch.zeros_like(at)
    for i in range(at.numel()):
        ends = []
        for side in (step, -step):
            moved = at.detach().clone()
            moved.view(-1)[i] += side
            ends.append(float(f(moved)))
        found.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    return found


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


# --------------------------------------------------------------------------------------------------- EMA


def test_moving_averages_follow_their_formula() -> None:
    q = quantizer(sizes=(4,), update="ema", decay=0.9).train()
    z = latents().detach()
    mass, sums = q.get_buffer("mass0").clone(), q.get_buffer("sums0").clone()
    codes = losses(q, z).codes[:, 0]
    for code in range(4):
        members = z[codes == code]
        mass[code] = 0.9 * mass[code] + 0.1 * len(members) / len(z)
        sums[code] = 0.9 * sums[code] + 0.1 * members.sum(dim=0) / len(z)
    assert torch.allclose(q.get_buffer("mass0"), mass)
    assert torch.allclose(q.tables[0], sums / mass[:, None])
    assert float(losses(q, z).codebook) == 0
    assert not q.tables[0].requires_grad


def test_moving_averages_come_to_the_means_of_their_rows() -> None:
    q, z = quantizer(sizes=(3,), update="ema", decay=0.5).train(), latents(200).detach()
    for _ in range(60):
        codes = losses(q, z).codes[:, 0]
    for code in set(codes.tolist()):
        assert torch.allclose(q.tables[0][code], z[codes == code].mean(dim=0), atol=1e-4)


def test_moving_averages_stand_still_in_evaluation() -> None:
    q, z = quantizer(update="ema").eval(), latents()
    before = [t.clone() for t in q.state_dict().values()]
    losses(q, z)
    assert all(torch.equal(a, b) for a, b in zip(before, q.state_dict().values(), strict=True))


@pytest.mark.parametrize("levels", [1, 3])
def test_moving_averages_of_a_shared_codebook_decay_once_a_step(levels: int) -> None:
    q = quantizer((4,) * levels, update="ema", decay=0.9, shared=True).train()
    z, table = latents().detach(), q.tables[0].clone()
    mass, sums = q.get_buffer("mass0").clone(), q.get_buffer("sums0").clone()
    codes, left = losses(q, z).codes, z
    mass, sums = 0.9 * mass, 0.9 * sums
    for level in range(levels):
        for code in range(4):
            members = left[codes[:, level] == code]
            mass[code] += 0.1 * len(members) / len(z) / levels
            sums[code] += 0.1 * members.sum(dim=0) / len(z) / levels
        left = left - table[codes[:, level]]  # every level saw the table as the step found it
    assert torch.allclose(q.get_buffer("mass0"), mass)
    assert torch.allclose(q.tables[0], sums / mass[:, None])


@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("simvq", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_every_combination_is_refused_or_trains(
    estimator: str, update: str, distance: str, shared: bool, simvq: bool, normalize: bool
) -> None:
    choices: dict[str, Any] = {"estimator": estimator, "update": update, "distance": distance}
    choices |= {"shared": shared, "simvq": simvq, "normalize": normalize}
    if simvq and update == "ema":
        with pytest.raises(UsageError, match="update = gradient"):
            quantizer((4, 4), **choices)
        return
    q, z = quantizer((4, 4), **choices).float().train(), latents(20).detach().float().requires_grad_()
    before = [book.copy() for book in q.books()]
    learned = [p for p in q.parameters() if p.requires_grad]
    assert bool(learned) == (update == "gradient")
    for step in range(2):
        found = q(z, torch.tensor(step / 2))
        total = found.out.square().sum() + found.commitment + found.codebook
        torch.autograd.backward(total)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in [z, *learned])
        with torch.no_grad():
            for p in learned:
                assert p.grad is not None
                p.sub_(1e-3 * p.grad)
    assert all((a != b).any() for a, b in zip(before, q.books(), strict=True))
    assert (found.codebook.item() > 0) == (update == "gradient")
    moved = q.eval().revive(z.detach(), 0.9, torch.Generator().manual_seed(0))
    assert 0 <= int(moved) <= 8
    codes = vq.encode(rows(20, 6), q.books(), q.choices)
    assert (codes == q.codes(z.detach()).numpy()).mean() > 0.95


# ------------------------------------------------------------------------------------- start and revival


@pytest.mark.parametrize("how", ["kmeans", "balanced"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_start_fits_the_latents(how: vq.Start, distance: str) -> None:
    z = rows(600, 6)
    first = quantizer((16, 16), distance=distance).float().eval()
    tensor = torch.from_numpy(z)
    before = float(first(tensor, END).commitment)
    first.begin(z, seed=0, how=how)
    assert bool(first.ready)
    found = first(tensor, END)
    assert float(found.commitment) < 0.75 * before
    assert all(len(found.codes[:, level].unique()) == 16 for level in range(2))
    if how == "balanced":
        counts = torch.bincount(found.codes[:, 0], minlength=16)
        assert int(counts.max()) < 3 * 600 / 16


def test_a_quantizer_that_is_ready_does_not_start_anew() -> None:
    q = quantizer().float()
    q.begin(rows(50, 6), seed=0, how="kmeans")
    fresh = quantizer(seed=1).float()
    fresh.load_state_dict(q.state_dict())
    fresh.begin(rows(50, 6, seed=1), seed=5, how="kmeans")
    assert all(torch.equal(a, b) for a, b in zip(q.tables, fresh.tables, strict=True))


@pytest.mark.parametrize("simvq", [False, True])
def test_codes_that_nobody_chose_are_revived(simvq: bool) -> None:
    q = quantizer((8, 8), simvq=simvq).float()
    z = torch.from_numpy(rows(400, 6))
    with torch.no_grad():
        q.tables[0][3:] += 100.0
    q.train()(z, END)
    assert int((q.get_buffer("used0") > 0).sum()) <= 3
    kept = q.tables[0][:3].clone()
    rng = torch.Generator().manual_seed(0)
    assert int(q.eval().revive(z, 0.01, rng)) >= 5
    found = q(z, END)
    assert len(found.codes[:, 0].unique()) == 8
    alive = torch.bincount(found.codes[:, 0], minlength=8)
    assert int(alive.min()) > 0
    assert bool((q.get_buffer("used0") == 0).all())
    if int((kept - q.tables[0][:3]).abs().sum() == 0):
        assert torch.equal(kept, q.tables[0][:3])


def test_revived_codes_of_a_moving_average_stay_where_they_were_put() -> None:
    q = quantizer((8,), update="ema").float()
    z = torch.from_numpy(rows(400, 6))
    with torch.no_grad():
        q.tables[0][4:] += 100.0
    q.train()(z, END)
    q.eval().revive(z, 0.01, torch.Generator().manual_seed(0))
    placed = q.tables[0].clone()
    q.train()(z, END)
    assert float((q.tables[0] - placed).norm(dim=1).max()) < 1.0
    assert len(q.eval()(z, END).codes.unique()) == 8


def test_revival_finds_different_rows_at_one_seed_the_same() -> None:
    states = []
    for _ in range(2):
        q = quantizer((8, 8)).float().eval()
        with torch.no_grad():
            q.get_buffer("used0")[0] = 5
        q.revive(torch.from_numpy(rows(100, 6)), 0.5, torch.Generator().manual_seed(1))
        states.append(q.tables[0].clone())
    assert torch.equal(*states)
    assert len(states[0].unique(dim=0)) == 8


def test_revival_on_latents_that_are_no_numbers_says_so() -> None:
    z = torch.from_numpy(rows(50, 6))
    z[3] = float("inf")
    with pytest.raises(FloatingPointError, match="latents are no numbers"):
        quantizer((8,)).float().eval().revive(z, 0.5, torch.Generator())


# ----------------------------------------------------------------------------------------------- sinkhorn


def test_sinkhorn_evens_the_codes_of_a_batch_in_training_alone() -> None:
    q = quantizer((8, 8), epsilon=(0.01, 0.01), sinkhorn_iters=100).float()
    z = torch.from_numpy(rows(800, 6) + 2)
    even = q.train()(z, END).codes
    plain = q.eval()(z, END).codes
    for level in range(2):
        most = torch.bincount(even[:, level], minlength=8).max()
        assert int(most) < 1.3 * 100
        assert int(torch.bincount(plain[:, level], minlength=8).max()) > 1.5 * int(most)


def test_sinkhorn_at_no_epsilon_is_the_nearest() -> None:
    z = torch.from_numpy(rows(100, 6))
    one = quantizer((8, 8), epsilon=(0.0, 0.0)).float().train()
    assert torch.equal(one(z, END).codes, one.eval()(z, END).codes)


# ----------------------------------------------------------------------------- shapes, variants, exact codes


def test_a_shared_codebook_is_one() -> None:
    q = quantizer((7, 7, 7), shared=True)
    assert len(q.tables) == 1
    books = q.books()
    assert all((book == books[0]).all() for book in books)
    z = latents()
    found = losses(q.train(), z)
    torch.autograd.backward(found.codebook)
    grad, table = q.tables[0].grad, q.tables[0].detach()
    expected, left = torch.zeros_like(table), z.detach()
    for level in range(3):
        chosen = table[found.codes[:, level]]
        expected.index_add_(0, found.codes[:, level], 2 * (chosen - left) / len(z))
        left = left - chosen
    assert grad is not None
    assert torch.allclose(grad, expected)
    assert int(q.get_buffer("used0").sum()) == 3 * len(z)
    start = quantizer((7, 7, 7), shared=True).float()
    start.begin(rows(100, 6), seed=0, how="kmeans")
    assert (start.books()[0] == start.books()[2]).all()


VARIANTS: list[dict[str, Any]] = [
    {},
    {"distance": "cosine"},
    {"normalize": True},
    {"distance": "cosine", "normalize": True},
    {"shared": True},
    {"simvq": True},
    {"update": "ema"},
]


@pytest.mark.parametrize("choices", VARIANTS, ids=str)
def test_exact_codes_are_those_of_training(choices: dict[str, Any]) -> None:
    q, z = quantizer((9, 9, 9), **choices).float().eval(), rows(500, 6)
    q.begin(z, seed=0, how="kmeans")
    trained = q(torch.from_numpy(z), END)
    codes = vq.encode(z, q.books(), q.choices)
    assert (codes == trained.codes.numpy()).mean() > 0.998
    same = (codes == trained.codes.numpy()).all(axis=1)
    together = residual.reconstruct(codes, q.books())
    assert np.allclose(together[same], trained.out.detach().numpy()[same], atol=1e-5)
    assert (vq.encode(z[::3], q.books(), q.choices) == codes[::3]).all()
    for level in range(3):
        costs = vq.costs(z, codes[:, :level], q.books(), q.choices)
        assert costs.shape == (500, 9)
        assert (costs.argmin(axis=1) == codes[:, level]).mean() > 0.99


def test_cosine_does_not_see_length() -> None:
    q, z = quantizer((9,), distance="cosine").float(), rows(200, 6)
    books = q.books()
    assert (vq.encode(z, books, q.choices) == vq.encode(7 * z, books, q.choices)).all()
    expected = (unit_rows(z) @ unit_rows(books[0]).T).argmax(axis=1)
    assert (vq.encode(z, books, q.choices)[:, 0] == expected).all()


def test_a_codeword_of_zeros_is_at_a_right_angle_to_every_row() -> None:
    q = quantizer((3,), dim=2, distance="cosine").float().eval()
    q.adopt([np.array([[0, 0], [1, 0], [-1, 1]], dtype=np.float32)])
    z = np.array([[1, 2], [-1, -3], [-1, 3]], dtype=np.float32)  # best cosines 0.45, 0, 0.89
    codes = vq.encode(z, q.books(), q.choices)
    assert codes[:, 0].tolist() == [1, 0, 2]
    assert (q.codes(torch.from_numpy(z)).numpy() == codes).all()
    squares = q._squares(torch.from_numpy(z), q.tables[0])
    np.testing.assert_allclose(vq.costs(z, codes[:, :0], q.books(), q.choices), squares.detach(), atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 255, 257])
def test_any_size(size: int) -> None:
    z = rows(600, 6)
    q = quantizer((size, 2)).float().train()
    q.begin(z, seed=0, how="kmeans")
    found = q(torch.from_numpy(z).requires_grad_(), END)
    torch.autograd.backward(found.commitment + found.codebook)
    codes = vq.encode(z, q.books(), q.choices)
    assert codes.max(axis=0).tolist() == [size - 1, 1]
    assert (codes == found.codes.numpy()).mean() > 0.998


def test_the_largest_size_trains() -> None:
    q = quantizer((65_536,), dim=4, update="ema").float().train()
    q(torch.from_numpy(rows(300, 4)), END)
    q.eval().revive(torch.from_numpy(rows(300, 4)), 0.1, torch.Generator().manual_seed(0))
    assert np.isfinite(q.books()[0]).all()


def test_more_levels_never_fit_worse() -> None:
    q, z = quantizer((9, 9, 9, 9)).float(), rows(500, 6)
    q.begin(z, seed=0, how="kmeans")
    codes = vq.encode(z, q.books(), q.choices)
    errors = [
        float(np.square(z - residual.reconstruct(codes[:, :levels], q.books())).sum())
        for levels in (1, 2, 3, 4)
    ]
    assert all(after <= before for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"shared": True}, "one size for all levels.*shared = false"),
        ({"epsilon": (0.1,)}, "1 epsilons for 3 levels"),
        ({"simvq": True, "update": "ema"}, "update = gradient"),
        ({"estimator": "gumbel", "epsilon": (0.1, 0.1, 0.1)}, "sinkhorn = 0"),
    ],
)
def test_what_does_not_go_together_is_refused(choices: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantizer((5, 4, 3), **choices)


def test_bfloat16_around_it_does_not_reach_it() -> None:
    q, z = quantizer().float().eval(), torch.from_numpy(rows(100, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = q(z.bfloat16(), END)
    assert found.out.dtype == torch.float32
    assert torch.equal(found.codes, q(z.bfloat16().float(), END).codes)
