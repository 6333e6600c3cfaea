"""The decoder's model: no look ahead, no effect of padding, and fast forms equal to plain ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sidbench.dataset import Sequences
from sidbench.decoder.attention import attend, cross_attention, self_attention
from sidbench.decoder.inputs import Windows
from sidbench.decoder.model import Shape, Transformer
from sidbench.decoder.noise import Noise, drop, relu_drop

CPU = torch.device("cpu")


def model(**changes: object) -> Transformer:
    settings: dict[str, object] = {
        "sizes": (5, 6, 7), "width": 16, "heads": 2, "head_width": 8, "feed_forward": 24, "encoder_layers": 2,
        "decoder_layers": 2, "history": 6, "user_tokens": 0, "tokens": "codes",
    }  # fmt: skip
    return Transformer(Shape(**{**settings, **changes}), seed=0)  # type: ignore[arg-type]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (rows,), generator=generator) for size in (5, 6, 7)], 1)


def test_no_level_sees_a_later_code() -> None:
    m, memory = model(), numbers(4, 9, 16)
    before = m.targets(codes(4), memory, None, None)
    for level in range(3):
        changed = codes(4)
        changed[:, level:] = (changed[:, level:] + 1) % 5
        after = m.targets(changed, memory, None, None)
        torch.testing.assert_close(after[:, : level + 1], before[:, : level + 1], rtol=0, atol=0)
        if level < 2:
            assert (after[:, level + 1] - before[:, level + 1]).abs().max() > 1e-3


@pytest.mark.parametrize("tokens", ["codes", "items"])
def test_padding_changes_nothing(tokens: str) -> None:
    m = model(tokens=tokens)
    per_item = 3 if tokens == "codes" else 1
    real = torch.stack([codes(4, seed=s) for s in (1, 2)], 1) + torch.tensor([0, 5, 11])
    padded = torch.cat((torch.full((4, 3, 3), 18), real), 1)
    bias = torch.zeros(4, 1, 1, 5 * per_item)
    bias[..., : 3 * per_item] = -torch.inf
    short, long = m.encode(real, None, None, None), m.encode(padded, None, None, bias)
    torch.testing.assert_close(long[:, 3 * per_item :], short, atol=1e-5, rtol=1e-4)
    plain, with_padding = m.targets(codes(4), short, None, None), m.targets(codes(4), long, bias, None)
    torch.testing.assert_close(with_padding, plain, atol=1e-5, rtol=1e-4)


def test_users_matter_where_they_have_tokens() -> None:
    m = model(user_tokens=3)
    tokens = codes(2)[:, None]
    one, other = (m.encode(tokens, torch.full((2,), user), None, None) for user in (0, 1))
    assert one.shape == (2, 4, 16)
    assert (one - other).abs().max() > 1e-3


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


def test_an_epoch_serves_every_window_once_and_pieces_lose_none() -> None:
    windows = Windows(Sequences.of([range(9), range(5), range(2)]), history=4, seed=0)
    assert len(windows) == 13
    two = torch.cat([windows.next(2) for _ in range(13)])
    assert sorted(two.tolist()) == sorted([*range(13), *range(13)])
    batch = windows.next(30)
    lengths = (windows.end - windows.begin)[batch]
    assert (lengths.diff() <= 0).all()
    pieces = list(windows.pieces(batch, batch, limit=8))
    assert torch.equal(torch.cat([p for p, _ in pieces]), batch)
    assert all(len(p) * int((windows.end - windows.begin)[p[0]]) <= 8 for p, _ in pieces)


def test_the_start_depends_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again = model(), model()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.isclose(float(first.table[:-1].detach().std()), 16**-0.5, rtol=0.2)
