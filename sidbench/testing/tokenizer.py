"""What every tokenizer must hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidbench.dataset import Embeddings
from sidbench.errors import DataError, NotFittedError, SidbenchError
from sidbench.plugin import configure
from sidbench.testing.core import Check, bound, catalogue, raises, refusal_allowed, same, that, valid
from sidbench.testing.state import GLOBALS, global_state, seeded
from sidbench.tokenizer import RUN_FACTS, Tokenizer

# Small enough for seconds; a tokenizer's `quick`, then the caller's parameters, come on top.
SMALL: dict[str, Any] = {"levels": 3, "codebook_size": 16}


class TokenizerSubject:
    """A tokenizer under test: makes fresh ones, and fits one that the checks of `encode` share."""

    def __init__(self, tokenizer: type[Tokenizer] | Tokenizer, params: dict[str, Any]) -> None:
        if isinstance(tokenizer, Tokenizer):
            self.cls, self.params = type(tokenizer), {**tokenizer.params(), **params}
        else:
            self.cls, self.params = tokenizer, {**SMALL, **tokenizer.quick, **params}
        self.name = self.cls.name

    def make(self, **changes: Any) -> Tokenizer:
        return configure(self.cls, {**self.params, **changes})

    def fit(self, x: Any, **changes: Any) -> Tokenizer:
        return self.make(**changes).fit(x)

    @cached_property
    def x(self) -> Embeddings:
        return catalogue(300, 24)

    @cached_property
    def fitted(self) -> Tokenizer:
        return self.fit(self.x)


def check_it_says_what_it_is(t: TokenizerSubject) -> None:
    that(bool(t.cls.name), "`name` is empty")
    that(
        t.cls.name == t.cls.name.strip().lower(), f"`name` is {t.cls.name!r}; expected lower case, no spaces"
    )
    made_up = t.cls.summary().startswith(f"{t.cls.__name__}(")  # what a dataclass puts in an empty place
    that(
        bool(t.cls.summary()) and not made_up,
        "the class has no docstring; its first line is what people see in the list",
    )
    known = set(t.make().params())
    that(
        set(t.cls.quick) <= known,
        f"`quick` names {sorted(set(t.cls.quick) - known)}, which are no parameters",
    )


def check_parameters_survive_a_round_trip(t: TokenizerSubject) -> None:
    made = t.make()
    that(made.replace() == made, "replace() without changes differs from the original")
    turned = t.cls(**dict(reversed(made.params().items())))
    that(turned == made, "the same parameters in another order make another tokenizer")
    restored = t.cls(**json.loads(json.dumps(made.params())))
    that(restored == made, f"parameters do not survive JSON: {made!r} became {restored!r}")


def check_a_constructor_only_stores(t: TokenizerSubject) -> None:
    learned = sorted(t.make().state())
    that(not learned, f"before fit it holds {learned}; names ending in _ are for what fit learns")


def check_unfitted_use_is_an_error(t: TokenizerSubject) -> None:
    raises(NotFittedError, lambda: t.make().encode(t.x), "encode before fit")
    with tempfile.TemporaryDirectory() as folder:
        raises(SidbenchError, lambda: t.make().save(folder), "save before fit")


def check_fit_returns_itself(t: TokenizerSubject) -> None:
    made = t.make()
    that(made.fit(t.x) is made, "fit returned something else than self")
    that(bool(made.state()), "fit learned nothing: save would have nothing to keep")


def check_codes_have_the_declared_shape_and_range(t: TokenizerSubject) -> None:
    valid(t.fitted.encode(t.x), t.fitted, len(t.x))
    unseen = catalogue(50, t.x.shape[1], seed=1)
    valid(t.fitted.encode(unseen), t.fitted, len(unseen))


def check_fit_encode_gives_valid_codes_and_leaves_it_fitted(t: TokenizerSubject) -> None:
    one, two = t.make(), t.make()
    codes = one.fit_encode(t.x)
    valid(codes, one, len(t.x))
    same(codes, two.fit_encode(t.x), "two runs of fit_encode with one seed")
    same(one.encode(t.x), two.encode(t.x), "encode after two runs of fit_encode with one seed")


def check_one_seed_gives_one_result(t: TokenizerSubject) -> None:
    codes = t.fitted.encode(t.x)
    same(codes, t.fit(t.x).encode(t.x), "two fits with one seed")
    again = t.fit(t.x[::2])
    same(codes, again.fit(t.x).encode(t.x), "a fit, and a second fit of what had been fitted on other data")


def check_encode_has_no_randomness(t: TokenizerSubject) -> None:
    same(t.fitted.encode(t.x), t.fitted.encode(t.x), "encode called twice")


def check_encode_does_not_depend_on_the_batch(t: TokenizerSubject) -> None:
    for x in (t.x, catalogue(1500, t.x.shape[1], seed=2)):
        whole = t.fitted.encode(x)
        for size in (1, 7, 64, 1000):
            if size == 1:
                x, whole = x[:100], whole[:100]
            parts = [t.fitted.encode(x[at : at + size]) for at in range(0, len(x), size)]
            same(whole, np.concatenate(parts), f"encode of all rows and encode in batches of {size}")


def check_encode_does_not_depend_on_the_order(t: TokenizerSubject) -> None:
    x = catalogue(1500, t.x.shape[1], seed=3)
    codes = t.fitted.encode(x)
    for order in (np.arange(len(x))[::-1], np.random.default_rng(0).permutation(len(x))):
        same(
            codes[order],
            t.fitted.encode(x[order]),
            "encode of the rows and encode of the rows in another order",
        )


def check_encode_does_not_depend_on_the_company(t: TokenizerSubject) -> None:
    x = catalogue(200, t.x.shape[1], seed=4)
    codes = t.fitted.encode(x)
    same(codes[::3], t.fitted.encode(x[::3]), "encode of all rows and encode of every third row")
    for company in (100 * x, np.zeros_like(x), np.repeat(x[:1], 900, axis=0)):
        among = t.fitted.encode(np.concatenate([company, x]))[len(company) :]
        same(codes, among, "encode of the rows and encode of the rows among quite different ones")


def check_duplicate_rows_get_equal_codes(t: TokenizerSubject) -> None:
    twice = t.fitted.encode(np.concatenate([t.x, t.x]))
    same(twice[: len(t.x)], twice[len(t.x) :], "encode of rows and of their duplicates")


def check_a_constant_catalogue_gets_equal_codes(t: TokenizerSubject) -> None:
    for value in (0.0, 1.5):
        x = np.full((100, 8), value, dtype=np.float32)
        fitted = t.fit(x)
        codes = fitted.encode(x)
        valid(codes, fitted, len(x))
        that(bool((codes == codes[0]).all()), f"rows that all hold {value} got different codes")


def check_the_input_is_left_untouched(t: TokenizerSubject) -> None:
    x = t.x.copy()
    x.flags.writeable = False
    before = x.tobytes()
    fitted = t.fit(x)
    that(x.tobytes() == before, "fit changed its input (it is read-only: copy what must change)")
    codes = fitted.encode(x)
    that(x.tobytes() == before, "encode changed its input (it is read-only: copy what must change)")
    t.make().fit_encode(x)
    that(x.tobytes() == before, "fit_encode changed its input (it is read-only: copy what must change)")
    kept = codes.copy()
    if t.cls.supports("costs"):
        fitted.costs(x, codes[:, :1])
    if t.cls.supports("reconstruct"):
        fitted.reconstruct(codes)
    that(x.tobytes() == before and (codes == kept).all(), "costs or reconstruct changed its input")


def check_saved_and_loaded_gives_equal_codes(t: TokenizerSubject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        t.fitted.save(folder)
        loaded = t.cls.load(Path(folder), device=t.fitted.device)
    that(loaded == t.fitted, f"loaded parameters differ: {loaded!r} for {t.fitted!r}")
    x = np.concatenate([t.x, catalogue(100, t.x.shape[1], seed=5)])
    codes = t.fitted.encode(x)
    same(codes, loaded.encode(x), "encode before save and after load")
    that(loaded.facts() == t.fitted.facts(), f"facts() differ after load: {loaded.facts()}")
    if t.cls.supports("costs"):
        equal = np.array_equal(t.fitted.costs(x, codes[:, :1]), loaded.costs(x, codes[:, :1]))
        that(equal, "costs differ before save and after load")
    if t.cls.supports("reconstruct"):
        equal = np.array_equal(t.fitted.reconstruct(codes), loaded.reconstruct(codes))
        that(equal, "reconstruct differs before save and after load")


def check_level_sizes_may_differ(t: TokenizerSubject) -> None:
    for sizes in ((7, 5, 3), (2, 16, 5, 9), (16,)):
        with refusal_allowed():
            fitted = t.fit(t.x, levels=len(sizes), codebook_size=sizes)
            valid(fitted.encode(t.x), fitted, len(t.x))


def check_fewer_items_than_codes(t: TokenizerSubject) -> None:
    for n in (1, 5, 15):
        x, made = t.x[:n], t.make()
        if n < made.fewest:
            raises(DataError, partial(made.fit, x), f"fit on {n} items for codebooks of {made.sizes}")
            continue
        fitted = made.fit(x)
        valid(fitted.encode(x), fitted, n)
        valid(fitted.encode(t.x), fitted, len(t.x))


def check_other_float_types_and_layouts_give_the_same(t: TokenizerSubject) -> None:
    half = t.x.astype(np.float16)
    x = half.astype(np.float32)
    fitted = t.fit(x)
    codes = fitted.encode(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        forms: dict[str, NDArray[Any]] = {
            "float16": half,
            "float64": x.astype(np.float64),
            "Fortran order": np.asfortranarray(x),
            "every second column of a wider array": np.repeat(x, 2, axis=1)[:, ::2],
            "memmap": np.load(path, mmap_mode="r"),
        }
        for form, y in forms.items():
            same(codes, fitted.encode(y), f"encode of float32 and of the same values as {form}")
            same(codes, t.fit(y).encode(x), f"fit on float32 and on the same values as {form}")
        del forms, y  # closes the memmap before its folder goes


def check_rows_of_another_width_are_refused(t: TokenizerSubject) -> None:
    d = t.x.shape[1]
    for width in (d - 1, d + 1):
        raises(
            SidbenchError,
            partial(t.fitted.encode, catalogue(4, width)),
            f"encode of {width} columns for {d}",
        )


def check_bad_embeddings_are_refused(t: TokenizerSubject) -> None:
    def with_value(value: float) -> Embeddings:
        bad = t.x.copy()
        bad[3, 2] = value
        return bad

    bad: dict[str, Any] = {
        "NaN": with_value(np.nan),
        "infinity": with_value(np.inf),
        "one dimension": t.x[0],
        "three dimensions": t.x[None],
        "no rows": t.x[:0],
        "no columns": t.x[:, :0],
        "object dtype": t.x.astype(object),
        "a list": t.x.tolist(),
        "strings": t.x.astype(str),
    }
    for what, x in bad.items():
        raises(DataError, partial(t.fit, x), f"fit on {what}")
        raises(DataError, partial(t.fitted.encode, x), f"encode of {what}")


def check_global_state_is_left_alone(t: TokenizerSubject) -> None:
    codes = t.fitted.encode(t.x)
    with seeded(12345):  # a state that no earlier fit can have left behind
        before = global_state()
        again = t.fit(t.x).encode(t.x)
        for what, was, now in zip(GLOBALS, before, global_state(), strict=True):
            that(was == now, f"fit or encode changed {what}; use generators of your own, put settings back")
    same(codes, again, "two fits with one seed but other global random states")


def check_facts_are_json(t: TokenizerSubject) -> None:
    facts = t.fitted.facts()
    that(json.loads(json.dumps(facts)) == facts, f"facts() do not survive JSON: {facts}")
    taken = sorted(RUN_FACTS & facts.keys())
    that(not taken, f"facts() names {', '.join(taken)}, which a run states of itself: call it something else")


def check_costs_are_finite_and_one_a_code(t: TokenizerSubject) -> None:
    if not t.cls.supports("costs"):
        return
    codes = t.fitted.encode(t.x)
    for level, size in enumerate(t.fitted.sizes):
        costs = t.fitted.costs(t.x, codes[:, :level])
        that(costs.shape == (len(t.x), size), f"costs have shape {costs.shape} after {level} codes")
        that(bool(np.isfinite(costs).all()), f"costs are not finite after {level} codes")
        part = t.fitted.costs(t.x[5:9], codes[5:9, :level])
        close = np.allclose(costs[5:9], part, rtol=1e-3, atol=1e-4 * float(np.abs(costs).max()) + 1e-12)
        that(close, f"costs of rows depend on their company after {level} codes")


def check_reconstruct_has_the_shape_of_the_input(t: TokenizerSubject) -> None:
    if not t.cls.supports("reconstruct"):
        return
    codes = t.fitted.encode(t.x)
    for width in range(1, codes.shape[1] + 1):
        y = t.fitted.reconstruct(codes[:, :width])
        that(y.shape == t.x.shape, f"reconstruct of {width} codes has shape {y.shape}, the input {t.x.shape}")
        that(bool(np.isfinite(y).all()), f"reconstruct of {width} codes is not finite")
        again = t.fitted.reconstruct(np.repeat(codes[:1, :width], 3, axis=0))
        that(np.allclose(again, y[0], rtol=1e-4, atol=1e-5), "equal codes reconstruct differently")


TOKENIZER_CHECKS: tuple[Callable[[TokenizerSubject], None], ...] = (
    check_it_says_what_it_is,
    check_parameters_survive_a_round_trip,
    check_a_constructor_only_stores,
    check_unfitted_use_is_an_error,
    check_fit_returns_itself,
    check_codes_have_the_declared_shape_and_range,
    check_fit_encode_gives_valid_codes_and_leaves_it_fitted,
    check_one_seed_gives_one_result,
    check_encode_has_no_randomness,
    check_encode_does_not_depend_on_the_batch,
    check_encode_does_not_depend_on_the_order,
    check_encode_does_not_depend_on_the_company,
    check_duplicate_rows_get_equal_codes,
    check_a_constant_catalogue_gets_equal_codes,
    check_the_input_is_left_untouched,
    check_saved_and_loaded_gives_equal_codes,
    check_level_sizes_may_differ,
    check_fewer_items_than_codes,
    check_other_float_types_and_layouts_give_the_same,
    check_rows_of_another_width_are_refused,
    check_bad_embeddings_are_refused,
    check_global_state_is_left_alone,
    check_facts_are_json,
    check_costs_are_finite_and_one_a_code,
    check_reconstruct_has_the_shape_of_the_input,
)


def tokenizer_checks(tokenizer: type[Tokenizer] | Tokenizer, **params: Any) -> list[Check]:
    """Every check of a tokenizer, given as a class (its `quick` parameters are used) or as an instance."""
    subject = TokenizerSubject(tokenizer, params)
    return bound(subject.name, subject, TOKENIZER_CHECKS)


def check_tokenizer(tokenizer: type[Tokenizer] | Tokenizer, **params: Any) -> None:
    """Run every check of a tokenizer; the first that fails raises AssertionError."""
    for check in tokenizer_checks(tokenizer, **params):
        check()
