"""Laws of the quantizer: moving averages, the start, revival, Sinkhorn, shapes, exact codes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.errors import UsageError
from sidbench.kit import residual, vq
from sidbench.kit.network import unit_rows
from tests.quantizers import END, latents, losses, quantizer, rows

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
    torch.manual_seed(0)  # of which Gumbel draws its noise
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
    # A row that became a codeword leaves nothing over, which is as near to one code as to another.
    assert (codes == q.codes(z.detach()).numpy()).mean() >= 0.9


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
