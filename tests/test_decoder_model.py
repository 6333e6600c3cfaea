"""The decoder's model: no look ahead, no effect of padding, and fast forms equal to plain ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.dataset import Sequences
from sidbench.decoder.attention import attend, cross_attention, self_attention
from sidbench.decoder.causal import Causal
from sidbench.decoder.inputs import Windows
from sidbench.decoder.model import Model
from sidbench.decoder.noise import Noise, drop, relu_drop
from sidbench.decoder.shape import Inputs, Shape
from sidbench.decoder.tiger import Tiger
from sidbench.decoder.training import negative_log_likelihood

CPU = torch.device("cpu")


ARCHITECTURES: list[dict[str, object]] = [
    {"architecture": a, "tokens": t, "separators": s, "user_tokens": u}
    for a in ("tiger", "causal")
    for t, s, u in (("items", False, 0), ("items", False, 3), ("codes", False, 0), ("codes", True, 3))
]
every_architecture = pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)


def model(*, architecture: object = "tiger", **changes: object) -> Model:
    settings: dict[str, object] = {
        "sizes": (5, 6, 7), "width": 16, "heads": 2, "head_width": 8, "feed_forward": 24, "encoder_layers": 2,
        "decoder_layers": 2, "history": 6, "user_tokens": 0, "tokens": "codes",
    }  # fmt: skip
    shape = Shape(**{**settings, **changes})  # type: ignore[arg-type]
    made: Model = Causal(shape, seed=0) if architecture == "causal" else Tiger(shape, seed=0)
    return made.requires_grad_(False)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (rows,), generator=generator) for size in (5, 6, 7)], 1)


def inputs(m: Model, items: int, rows: int = 4) -> Inputs:
    """Rows of so many items, none padded."""
    tokens = torch.stack([codes(rows, seed=s) for s in range(items)], 1) + torch.tensor([0, 5, 11])
    users = torch.arange(rows) % 3 if m.shape.user_tokens else None
    return Inputs(tokens, users, None, torch.full((rows,), items) if m.every else None)


@every_architecture
def test_no_level_sees_a_later_code(settings: dict[str, object]) -> None:
    m = model(**settings)
    before = m.states(inputs(m, 3), codes(4), None)
    for level in range(3):
        changed = codes(4)
        changed[:, level:] = (changed[:, level:] + 1) % 5
        after = m.states(inputs(m, 3), changed, None)
        torch.testing.assert_close(after[:, : level + 1], before[:, : level + 1], rtol=0, atol=0)
        if level < 2:
            assert (after[:, level + 1] - before[:, level + 1]).abs().max() > 1e-3


def stream(m: Model, tokens: Tensor, users: Tensor | None) -> tuple[Inputs, Tensor]:
    """Full rows in which every item but the first is a target, and the targets' codes."""
    rows, items, _ = tokens.shape
    at = torch.arange(rows * items).view(rows, items)[:, 1:].flatten()
    goals = tokens.flatten(0, 1)[at] - torch.tensor([0, 5, 11])
    return Inputs(tokens, users, None, torch.full((rows,), items), at), goals


@pytest.mark.parametrize("settings", [s for s in ARCHITECTURES if s["architecture"] == "causal"], ids=str)
def test_no_position_of_a_stream_sees_a_later_item(settings: dict[str, object]) -> None:
    m = model(**settings)
    tokens, users = inputs(m, 6).tokens, inputs(m, 6).users
    before = m.states(*stream(m, tokens, users), None).view(4, 5, 3, 16)
    for item in range(6):
        changed = tokens.clone()
        changed[:, item:] = inputs(m, 6 - item).tokens.flip(1, 0)
        after = m.states(*stream(m, changed, users), None).view(4, 5, 3, 16)
        # The first code of the changed item is predicted from what stands before it.
        seen = after[:, : max(0, item - 1)]
        torch.testing.assert_close(seen, before[:, : max(0, item - 1)], rtol=0, atol=0)
        if item:
            torch.testing.assert_close(after[:, item - 1, 0], before[:, item - 1, 0], rtol=0, atol=0)
            assert (after[:, item - 1 :] - before[:, item - 1 :]).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [s for s in ARCHITECTURES if s["architecture"] == "causal"], ids=str)
def test_all_positions_at_once_equal_each_alone(settings: dict[str, object]) -> None:
    m = model(**settings)
    whole = inputs(m, 6)
    together = negative_log_likelihood(m, *stream(m, whole.tokens, whole.users), variable=False).view(4, 5, 3)
    for item in range(1, 6):
        alone = Inputs(whole.tokens[:, :item], whole.users, None, torch.full((4,), item))
        goal = whole.tokens[:, item] - torch.tensor([0, 5, 11])
        losses = negative_log_likelihood(m, alone, goal, variable=False)
        torch.testing.assert_close(together[:, item - 1], losses, atol=1e-5, rtol=1e-4)


@every_architecture
def test_padding_changes_nothing(settings: dict[str, object]) -> None:
    m = model(**settings)
    short = inputs(m, 2)
    nothing = torch.full((4, 3, 3), 18)
    if m.every:
        padded = short._replace(tokens=torch.cat((short.tokens, nothing), 1))
    else:
        bias = torch.zeros(4, 1, 1, 5 * m.shape.per_item + bool(m.shape.user_tokens))
        first = int(bool(m.shape.user_tokens))
        bias[..., first : first + 3 * m.shape.per_item] = -torch.inf
        padded = short._replace(tokens=torch.cat((nothing, short.tokens), 1), bias=bias)
    plain, with_padding = m.states(short, codes(4), None), m.states(padded, codes(4), None)
    torch.testing.assert_close(with_padding, plain, atol=1e-5, rtol=1e-4)
    first_step = [m.step(0, None, [], m.read(i), (4, 1))[0] for i in (short, padded)]
    torch.testing.assert_close(first_step[0], first_step[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [s for s in ARCHITECTURES if s["user_tokens"]], ids=str)
def test_users_matter_where_they_have_tokens(settings: dict[str, object]) -> None:
    m = model(**settings)
    one, other = (
        m.states(inputs(m, 2)._replace(users=torch.full((4,), user)), codes(4), None) for user in (0, 1)
    )
    assert (one - other).abs().max() > 1e-3


def test_one_vocabulary_and_one_table_are_what_they_say() -> None:
    m = model(vocabulary="shared", tied=True)
    weights, start = m.head(1)
    assert (len(weights), start) == (18, 5)
    assert torch.equal(weights, m.table[:-1])
    given = inputs(m, 2)
    states = m.states(given, codes(4), None)
    logp = (states[:, 1] @ m.table[:-1].T).log_softmax(-1)[torch.arange(4), codes(4)[:, 1] + 5]
    losses = negative_log_likelihood(m, given, codes(4), variable=False)
    torch.testing.assert_close(-logp, losses[:, 1])


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_written_out_self_attention_and_its_gradient_are_the_plain_ones(rate: float) -> None:
    joint = numbers(3, 5, 3 * 8).requires_grad_()
    bias = torch.zeros(3, 1, 1, 5)
    bias[1, ..., :2] = -torch.inf
    noise = Noise(rate, 1, CPU, torch.float32) if rate else None
    fast = self_attention(joint, 2, bias, noise)
    (goal,) = torch.autograd.grad((fast * numbers(3, 5, 8, seed=1)).sum(), joint)
    q, k, v = (part.view(3, 5, 2, 4).transpose(1, 2) for part in joint.chunk(3, -1))
    weights = ((q @ k.transpose(-1, -2)) / 2 + bias).softmax(-1)
    if rate:
        weights = weights * (Noise(rate, 1, CPU, torch.float32).mask((6, 5, 5)) != 0).view(3, 2, 5, 5)
    plain = (weights @ v).transpose(1, 2).flatten(2)
    (expected,) = torch.autograd.grad((plain * numbers(3, 5, 8, seed=1)).sum(), joint)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(goal, expected)


def test_cross_attention_without_keys_equals_attention_with_them() -> None:
    q, memory, both = numbers(3, 2, 4, 8), numbers(3, 7, 16, seed=1), numbers(32, 16, seed=2)
    bias = torch.zeros(3, 1, 1, 7)
    bias[2, ..., :3] = -torch.inf
    k, v = ((memory @ part.T).view(3, 7, 2, 8).transpose(1, 2) for part in both.chunk(2))
    torch.testing.assert_close(cross_attention(q, memory, both, bias, None), attend(q, k, v, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(dtype: torch.dtype) -> None:
    noise = Noise(0.1, 0, CPU, dtype)
    x = torch.ones(1000, 999, dtype=dtype, requires_grad=True)
    y = drop(x, noise)
    kept = float((y != 0).float().mean())
    assert abs(kept - 0.9) < 0.002
    assert abs(kept * noise.scale - 1) < 0.002
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, y)
    assert not torch.equal(drop(x, noise), y)
    assert torch.equal(drop(x, Noise(0.1, 0, CPU, dtype)), y)


def test_relu_drop_is_relu_then_dropout() -> None:
    x = numbers(50, 60).requires_grad_()
    y = relu_drop(x * 1, Noise(0.2, 3, CPU, torch.float32))
    expected = drop(x.relu(), Noise(0.2, 3, CPU, torch.float32))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x))


def test_windows_are_every_position_but_the_first() -> None:
    rows = Sequences.of([[4, 5, 6, 7], [8], [], [9, 10]])
    windows = Windows(rows, history=2, seed=0)
    seen = {
        (int(user), tuple(rows.items[begin:end]), int(rows.items[end]))
        for user, begin, end in zip(windows.users, windows.begin, windows.end, strict=True)
    }
    assert seen == {(0, (4,), 5), (0, (4, 5), 6), (0, (5, 6), 7), (3, (9,), 10)}


def test_streams_have_every_position_but_the_first_for_a_target_once() -> None:
    rows = Sequences.of([[4, 5, 6, 7], [8], [], [9, 10], [1, 2, 3]])
    windows = Windows(rows, history=2, seed=0, every=True)
    seen = [
        (int(user), tuple(rows.items[begin : end + 1]))
        for user, begin, end in zip(windows.users, windows.begin, windows.end, strict=True)
    ]
    assert seen == [(0, (4, 5)), (0, (5, 6, 7)), (3, (9, 10)), (4, (1, 2, 3))]
    batch = torch.tensor([1, 3, 0, 2])
    assert windows.targets(batch).tolist() == [6, 7, 2, 3, 5, 10]
    pieces = list(windows.pieces(batch, windows.targets(batch), limit=2, spare=0))
    assert [(p.tolist(), g.tolist()) for p, g in pieces] == [
        ([1], [6, 7]), ([3], [2, 3]), ([0, 2], [5, 10]),
    ]  # fmt: skip


def test_an_epoch_serves_every_window_once_and_pieces_lose_none() -> None:
    windows = Windows(Sequences.of([range(9), range(5), range(2)]), history=4, seed=0)
    assert len(windows) == 13
    two = torch.cat([windows.next(2) for _ in range(13)])
    assert sorted(two.tolist()) == sorted([*range(13), *range(13)])
    batch = windows.next(30)
    lengths = (windows.end - windows.begin)[batch]
    assert (lengths.diff() <= 0).all()
    pieces = list(windows.pieces(batch, batch, limit=8, spare=0))
    assert torch.equal(torch.cat([p for p, _ in pieces]), batch)
    assert all(len(p) * int((windows.end - windows.begin)[p[0]]) <= 8 for p, _ in pieces)


def test_the_start_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again = model(), model()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.isclose(float(first.table[:-1].detach().std()), 16**-0.5, rtol=0.2)
