"""The conformance kit: what every plugin must hold, each check a sentence.

In a package of your own, one line a plugin::

    from sidbench.testing import check_tokenizer
    check_tokenizer(MyTokenizer)

or a test for each check::

    @pytest.mark.parametrize("check", tokenizer_checks(MyTokenizer), ids=str)
    def test_my_tokenizer(check):
        check()

A failure is an AssertionError that names the plugin, the check and what was seen.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from sidbench.dataset import Corpus, Dataset, Embeddings
from sidbench.errors import DataError, NotFittedError, SidbenchError, UsageError
from sidbench.kit import residual
from sidbench.kit.kmeans import kmeans
from sidbench.plugin import Plugin, configure
from sidbench.resolver import Resolver
from sidbench.sids import Codes, SIDs, check_codes
from sidbench.tokenizer import Tokenizer

# Small enough for seconds; a tokenizer's `quick`, then the caller's parameters, come on top.
SMALL: dict[str, Any] = {"levels": 3, "codebook_size": 16}


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome; `message` is empty where it passed."""

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class Check:
    """One check bound to one plugin: call it, and it raises AssertionError or does not."""

    plugin: str
    name: str
    body: Callable[[], None]

    def __call__(self) -> None:
        try:
            self.body()
        except Exception as e:
            seen = str(e) if isinstance(e, AssertionError) else f"{type(e).__name__}: {e}"
            raise AssertionError(f"{self.plugin}: {self.name}: {seen}") from e

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def tokenizer_checks(tokenizer: type[Tokenizer] | Tokenizer, **params: Any) -> list[Check]:
    """Every check of a tokenizer, given as a class (its `quick` parameters are used) or as an instance."""
    subject = TokenizerSubject(tokenizer, params)
    return _bound(subject.name, subject, TOKENIZER_CHECKS)


def resolver_checks(resolver: type[Resolver] | Resolver, **params: Any) -> list[Check]:
    """Every check of a resolver."""
    subject = ResolverSubject(_instance(resolver, params))
    return _bound(subject.resolver.name, subject, RESOLVER_CHECKS)


def dataset_checks(dataset: type[Dataset] | Dataset, **params: Any) -> list[Check]:
    """Every check of a dataset. It is loaded twice, so give a small variant where there is one."""
    subject = DatasetSubject(_instance(dataset, params))
    return _bound(subject.dataset.name, subject, DATASET_CHECKS)


def checks(plugin: type[Plugin] | Plugin, **params: Any) -> list[Check]:
    """The checks for a plugin of any kind that has them."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    for base, make in _KINDS.items():
        if issubclass(cls, base):
            return make(plugin, **params)
    raise UsageError(f"{cls.name} is a {cls.kind}; there are checks for {', '.join(b.kind for b in _KINDS)}")


def run_checks(plugin: type[Plugin] | Plugin, **params: Any) -> Iterator[CheckResult]:
    """Run the checks one by one and tell each outcome as it comes; none stops the others."""
    for check in checks(plugin, **params):
        try:
            check()
        except AssertionError as e:
            yield CheckResult(check.name, False, str(e))
        else:
            yield CheckResult(check.name, True)


def check_tokenizer(tokenizer: type[Tokenizer] | Tokenizer, **params: Any) -> None:
    """Run every check of a tokenizer; the first that fails raises AssertionError."""
    for check in tokenizer_checks(tokenizer, **params):
        check()


def check_resolver(resolver: type[Resolver] | Resolver, **params: Any) -> None:
    """Run every check of a resolver; the first that fails raises AssertionError."""
    for check in resolver_checks(resolver, **params):
        check()


def check_dataset(dataset: type[Dataset] | Dataset, **params: Any) -> None:
    """Run every check of a dataset; the first that fails raises AssertionError."""
    for check in dataset_checks(dataset, **params):
        check()


_KINDS: dict[type[Plugin], Callable[..., list[Check]]] = {
    Tokenizer: tokenizer_checks,
    Resolver: resolver_checks,
    Dataset: dataset_checks,
}


# ---------------------------------------------------------------------------------------------- tokenizers


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


def catalogue(n: int, dimensions: int, seed: int = 0) -> Embeddings:
    """Items in clusters of clusters, away from the origin, a tenth of them exact duplicates."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(8, dimensions))
    fine = coarse[rng.integers(8, size=40)] + 0.5 * rng.normal(size=(40, dimensions))
    x = fine[rng.integers(40, size=n)] + 0.2 * rng.normal(size=(n, dimensions)) + 0.5
    x[rng.integers(n, size=n // 10)] = x[rng.integers(n, size=n // 10)]
    return x.astype(np.float32)


def check_it_says_what_it_is(t: TokenizerSubject) -> None:
    _that(bool(t.cls.name), "`name` is empty")
    _that(
        t.cls.name == t.cls.name.strip().lower(), f"`name` is {t.cls.name!r}; expected lower case, no spaces"
    )
    made_up = t.cls.summary().startswith(f"{t.cls.__name__}(")  # what a dataclass puts in an empty place
    _that(
        bool(t.cls.summary()) and not made_up,
        "the class has no docstring; its first line is what people see in the list",
    )
    known = set(t.make().params())
    _that(
        set(t.cls.quick) <= known,
        f"`quick` names {sorted(set(t.cls.quick) - known)}, which are no parameters",
    )


def check_parameters_survive_a_round_trip(t: TokenizerSubject) -> None:
    made = t.make()
    _that(made.replace() == made, "replace() without changes differs from the original")
    turned = t.cls(**dict(reversed(made.params().items())))
    _that(turned == made, "the same parameters in another order make another tokenizer")
    restored = t.cls(**json.loads(json.dumps(made.params())))
    _that(restored == made, f"parameters do not survive JSON: {made!r} became {restored!r}")


def check_a_constructor_only_stores(t: TokenizerSubject) -> None:
    learned = sorted(t.make().state())
    _that(not learned, f"before fit it holds {learned}; names ending in _ are for what fit learns")


def check_unfitted_use_is_an_error(t: TokenizerSubject) -> None:
    _raises(NotFittedError, lambda: t.make().encode(t.x), "encode before fit")
    with tempfile.TemporaryDirectory() as folder:
        _raises(SidbenchError, lambda: t.make().save(folder), "save before fit")


def check_fit_returns_itself(t: TokenizerSubject) -> None:
    made = t.make()
    _that(made.fit(t.x) is made, "fit returned something else than self")
    _that(bool(made.state()), "fit learned nothing: save would have nothing to keep")


def check_codes_have_the_declared_shape_and_range(t: TokenizerSubject) -> None:
    _valid(t.fitted.encode(t.x), t.fitted, len(t.x))
    unseen = catalogue(50, t.x.shape[1], seed=1)
    _valid(t.fitted.encode(unseen), t.fitted, len(unseen))


def check_fit_encode_gives_valid_codes_and_leaves_it_fitted(t: TokenizerSubject) -> None:
    one, two = t.make(), t.make()
    codes = one.fit_encode(t.x)
    _valid(codes, one, len(t.x))
    _same(codes, two.fit_encode(t.x), "two runs of fit_encode with one seed")
    _same(one.encode(t.x), two.encode(t.x), "encode after two runs of fit_encode with one seed")


def check_one_seed_gives_one_result(t: TokenizerSubject) -> None:
    codes = t.fitted.encode(t.x)
    _same(codes, t.fit(t.x).encode(t.x), "two fits with one seed")
    again = t.fit(t.x[::2])
    _same(codes, again.fit(t.x).encode(t.x), "a fit, and a second fit of what had been fitted on other data")


def check_encode_has_no_randomness(t: TokenizerSubject) -> None:
    _same(t.fitted.encode(t.x), t.fitted.encode(t.x), "encode called twice")


def check_encode_does_not_depend_on_the_batch(t: TokenizerSubject) -> None:
    for x in (t.x, catalogue(1500, t.x.shape[1], seed=2)):
        whole = t.fitted.encode(x)
        for size in (1, 7, 64, 1000):
            if size == 1:
                x, whole = x[:100], whole[:100]
            parts = [t.fitted.encode(x[at : at + size]) for at in range(0, len(x), size)]
            _same(whole, np.concatenate(parts), f"encode of all rows and encode in batches of {size}")


def check_encode_does_not_depend_on_the_order(t: TokenizerSubject) -> None:
    x = catalogue(1500, t.x.shape[1], seed=3)
    codes = t.fitted.encode(x)
    for order in (np.arange(len(x))[::-1], np.random.default_rng(0).permutation(len(x))):
        _same(
            codes[order],
            t.fitted.encode(x[order]),
            "encode of the rows and encode of the rows in another order",
        )


def check_encode_does_not_depend_on_the_company(t: TokenizerSubject) -> None:
    x = catalogue(200, t.x.shape[1], seed=4)
    codes = t.fitted.encode(x)
    _same(codes[::3], t.fitted.encode(x[::3]), "encode of all rows and encode of every third row")
    for company in (100 * x, np.zeros_like(x), np.repeat(x[:1], 900, axis=0)):
        among = t.fitted.encode(np.concatenate([company, x]))[len(company) :]
        _same(codes, among, "encode of the rows and encode of the rows among quite different ones")


def check_duplicate_rows_get_equal_codes(t: TokenizerSubject) -> None:
    twice = t.fitted.encode(np.concatenate([t.x, t.x]))
    _same(twice[: len(t.x)], twice[len(t.x) :], "encode of rows and of their duplicates")


def check_a_constant_catalogue_gets_equal_codes(t: TokenizerSubject) -> None:
    for value in (0.0, 1.5):
        x = np.full((100, 8), value, dtype=np.float32)
        fitted = t.fit(x)
        codes = fitted.encode(x)
        _valid(codes, fitted, len(x))
        _that(bool((codes == codes[0]).all()), f"rows that all hold {value} got different codes")


def check_the_input_is_left_untouched(t: TokenizerSubject) -> None:
    x = t.x.copy()
    x.flags.writeable = False
    before = x.tobytes()
    fitted = t.fit(x)
    _that(x.tobytes() == before, "fit changed its input (it is read-only: copy what must change)")
    codes = fitted.encode(x)
    _that(x.tobytes() == before, "encode changed its input (it is read-only: copy what must change)")
    t.make().fit_encode(x)
    _that(x.tobytes() == before, "fit_encode changed its input (it is read-only: copy what must change)")
    kept = codes.copy()
    if t.cls.supports("costs"):
        fitted.costs(x, codes[:, :1])
    if t.cls.supports("reconstruct"):
        fitted.reconstruct(codes)
    _that(x.tobytes() == before and (codes == kept).all(), "costs or reconstruct changed its input")


def check_saved_and_loaded_gives_equal_codes(t: TokenizerSubject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        t.fitted.save(folder)
        loaded = t.cls.load(Path(folder))
    _that(loaded == t.fitted, f"loaded parameters differ: {loaded!r} for {t.fitted!r}")
    x = np.concatenate([t.x, catalogue(100, t.x.shape[1], seed=5)])
    codes = t.fitted.encode(x)
    _same(codes, loaded.encode(x), "encode before save and after load")
    _that(loaded.facts() == t.fitted.facts(), f"facts() differ after load: {loaded.facts()}")
    if t.cls.supports("costs"):
        same = np.array_equal(t.fitted.costs(x, codes[:, :1]), loaded.costs(x, codes[:, :1]))
        _that(same, "costs differ before save and after load")
    if t.cls.supports("reconstruct"):
        same = np.array_equal(t.fitted.reconstruct(codes), loaded.reconstruct(codes))
        _that(same, "reconstruct differs before save and after load")


def check_level_sizes_may_differ(t: TokenizerSubject) -> None:
    for sizes in ((7, 5, 3), (2, 16, 5, 9), (16,)):
        with _refusal_allowed():
            fitted = t.fit(t.x, levels=len(sizes), codebook_size=sizes)
            _valid(fitted.encode(t.x), fitted, len(t.x))


def check_fewer_items_than_codes(t: TokenizerSubject) -> None:
    for n in (1, 5):
        x = t.x[:n]
        try:
            fitted = t.fit(x)
        except SidbenchError:
            continue  # a clear error is an answer; so is a stated reduction
        _valid(fitted.encode(x), fitted, n)
        _valid(fitted.encode(t.x), fitted, len(t.x))


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
            _same(codes, fitted.encode(y), f"encode of float32 and of the same values as {form}")
            _same(codes, t.fit(y).encode(x), f"fit on float32 and on the same values as {form}")
        del forms, y  # closes the memmap before its folder goes


def check_rows_of_another_width_are_refused(t: TokenizerSubject) -> None:
    d = t.x.shape[1]
    for width in (d - 1, d + 1):
        _raises(
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
        _raises(DataError, partial(t.fit, x), f"fit on {what}")
        _raises(DataError, partial(t.fitted.encode, x), f"encode of {what}")


def check_global_state_is_left_alone(t: TokenizerSubject) -> None:
    codes = t.fitted.encode(t.x)
    with _seeded(12345):  # a state that no earlier fit can have left behind
        before = _global_state()
        again = t.fit(t.x).encode(t.x)
        for what, was, now in zip(_GLOBALS, before, _global_state(), strict=True):
            _that(was == now, f"fit or encode changed {what}; use generators of your own, put settings back")
    _same(codes, again, "two fits with one seed but other global random states")


def check_facts_are_json(t: TokenizerSubject) -> None:
    facts = t.fitted.facts()
    _that(json.loads(json.dumps(facts)) == facts, f"facts() do not survive JSON: {facts}")


def check_costs_are_finite_and_one_a_code(t: TokenizerSubject) -> None:
    if not t.cls.supports("costs"):
        return
    codes = t.fitted.encode(t.x)
    for level, size in enumerate(t.fitted.sizes):
        costs = t.fitted.costs(t.x, codes[:, :level])
        _that(costs.shape == (len(t.x), size), f"costs have shape {costs.shape} after {level} codes")
        _that(bool(np.isfinite(costs).all()), f"costs are not finite after {level} codes")
        part = t.fitted.costs(t.x[5:9], codes[5:9, :level])
        close = np.allclose(costs[5:9], part, rtol=1e-3, atol=1e-4 * float(np.abs(costs).max()) + 1e-12)
        _that(close, f"costs of rows depend on their company after {level} codes")


def check_reconstruct_has_the_shape_of_the_input(t: TokenizerSubject) -> None:
    if not t.cls.supports("reconstruct"):
        return
    codes = t.fitted.encode(t.x)
    for width in range(1, codes.shape[1] + 1):
        y = t.fitted.reconstruct(codes[:, :width])
        _that(
            y.shape == t.x.shape, f"reconstruct of {width} codes has shape {y.shape}, the input {t.x.shape}"
        )
        _that(bool(np.isfinite(y).all()), f"reconstruct of {width} codes is not finite")
        again = t.fitted.reconstruct(np.repeat(codes[:1, :width], 3, axis=0))
        _that(np.allclose(again, y[0], rtol=1e-4, atol=1e-5), "equal codes reconstruct differently")


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


# ----------------------------------------------------------------------------------------------- resolvers


class Coarse(Tokenizer):
    """Two levels of four codes: a tokenizer with many collisions and with costs, for resolvers to work on."""

    name = "coarse"
    levels: int = 2
    codebook_size: int | tuple[int, ...] = 4

    def fit(self, x: Embeddings) -> Self:
        self.codebooks_ = residual.fit(x, self.sizes, lambda left, k, level: kmeans(left, k, iters=5).centers)
        return self

    def encode(self, x: Embeddings) -> Codes:
        return residual.encode(x, self.codebooks_)

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        return residual.costs(x, prefix, self.codebooks_)

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        return residual.reconstruct(codes, self.codebooks_)


class ResolverSubject:
    """A resolver under test with SIDs that collide."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.x = catalogue(200, 8)
        self.tokenizer = Coarse().fit(self.x)
        ids = np.array([f"item-{i}" for i in range(len(self.x))])
        self.sids = SIDs(self.tokenizer.encode(self.x), self.tokenizer.sizes, ids)

    @cached_property
    def resolved(self) -> SIDs:
        return self.resolver.resolve(self.sids, self.tokenizer, self.x)


def check_a_resolver_keeps_every_item_in_its_place(r: ResolverSubject) -> None:
    _that(isinstance(r.resolved, SIDs), f"resolve returned {type(r.resolved).__name__}, not SIDs")
    _that(np.array_equal(r.resolved.item_ids, r.sids.item_ids), "item ids changed, or their order")
    check_codes(r.resolved.codes, r.resolved.sizes, "resolve", variable=True)


def check_a_resolver_says_its_name(r: ResolverSubject) -> None:
    _that(r.resolved.resolver == r.resolver.name, f"the SIDs say resolver {r.resolved.resolver!r}")


def check_a_resolver_makes_no_new_collisions(r: ResolverSubject) -> None:
    before, after = len(r.sids.groups()[0]), len(r.resolved.groups()[0])
    _that(after >= before, f"{after} distinct SIDs from {before}")


def check_a_resolver_is_deterministic(r: ResolverSubject) -> None:
    again = r.resolver.replace().resolve(r.sids, r.tokenizer, r.x)
    _same(r.resolved.codes, again.codes, "two calls of resolve")


def check_a_resolver_leaves_its_input_untouched(r: ResolverSubject) -> None:
    codes, x = r.sids.codes.copy(), r.x.copy()
    r.resolver.resolve(r.sids, r.tokenizer, r.x)
    _that(bool((codes == r.sids.codes).all()), "resolve changed the SIDs that it was given")
    _that(bool((x == r.x).all()), "resolve changed the embeddings that it was given")


def check_a_resolver_takes_one_item(r: ResolverSubject) -> None:
    one = SIDs(r.sids.codes[:1], r.sids.sizes, r.sids.item_ids[:1])
    _that(len(r.resolver.resolve(one, r.tokenizer, r.x[:1])) == 1, "one item did not stay one item")


RESOLVER_CHECKS: tuple[Callable[[ResolverSubject], None], ...] = (
    check_a_resolver_keeps_every_item_in_its_place,
    check_a_resolver_says_its_name,
    check_a_resolver_makes_no_new_collisions,
    check_a_resolver_is_deterministic,
    check_a_resolver_leaves_its_input_untouched,
    check_a_resolver_takes_one_item,
)


# ------------------------------------------------------------------------------------------------ datasets


class DatasetSubject:
    """A dataset under test, loaded once for all checks but the one that compares two loads."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @cached_property
    def corpus(self) -> Corpus:
        return self.dataset.load()


def check_a_dataset_loads_a_corpus(d: DatasetSubject) -> None:
    _that(isinstance(d.corpus, Corpus), f"load returned {type(d.corpus).__name__}, not Corpus")
    _that(bool(d.corpus.name) and bool(d.corpus.fingerprint), "the corpus has no name or no fingerprint")


def check_a_dataset_loads_the_same_twice(d: DatasetSubject) -> None:
    again = d.dataset.replace().load().fingerprint
    _that(again == d.corpus.fingerprint, f"two loads have fingerprints {d.corpus.fingerprint} and {again}")


def check_sequences_are_whole_and_in_range(d: DatasetSubject) -> None:
    items, offsets = d.corpus.sequences.items, d.corpus.sequences.offsets
    _that(len(offsets) > 1, "there are no sequences")
    _that(offsets[0] == 0 and offsets[-1] == len(items), "offsets do not cover the items")
    _that(bool((np.diff(offsets) >= 0).all()), "offsets fall")
    _that(
        items.min() >= 0 and items.max() < len(d.corpus),
        f"sequences name items outside 0..{len(d.corpus) - 1}",
    )


def check_ids_are_unique(d: DatasetSubject) -> None:
    for what, ids in (("item", d.corpus.item_ids), ("user", d.corpus.user_ids)):
        _that(len(np.unique(ids)) == len(ids), f"{what} ids repeat")


DATASET_CHECKS: tuple[Callable[[DatasetSubject], None], ...] = (
    check_a_dataset_loads_a_corpus,
    check_a_dataset_loads_the_same_twice,
    check_sequences_are_whole_and_in_range,
    check_ids_are_unique,
)


# ------------------------------------------------------------------------------------------------- helpers


def _instance(plugin: Any, params: dict[str, Any]) -> Any:
    return configure(plugin, params) if isinstance(plugin, type) else plugin.replace(**params)


def _bound(plugin: str, subject: Any, bodies: Sequence[Callable[[Any], None]]) -> list[Check]:
    def bind(body: Callable[[Any], None]) -> Check:
        name = body.__name__.removeprefix("check_").replace("_", " ")
        return Check(plugin, name, lambda: body(subject))

    return [bind(body) for body in bodies]


def _that(holds: bool, otherwise: str) -> None:
    # Not `assert`: python -O must not pass a plugin that breaks its contract.
    if not holds:
        raise AssertionError(otherwise)


def _valid(codes: Codes, tokenizer: Tokenizer, n: int) -> None:
    check_codes(codes, tokenizer.sizes, "encode")
    _that(len(codes) == n, f"{len(codes)} rows of codes for {n} items")


def _same(a: Codes, b: Codes, what: str) -> None:
    rows = np.flatnonzero((a != b).any(axis=1))
    if len(rows):
        first = rows[0]
        seen = f"first row {first}: {a[first].tolist()} and {b[first].tolist()}"
        raise AssertionError(f"{what} differ in {len(rows)} of {len(a)} rows ({seen})")


def _raises(error: type[Exception], call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except error:
        return
    except Exception as e:
        raise AssertionError(f"{what} raised {type(e).__name__} ({e}); expected {error.__name__}") from e
    raise AssertionError(f"{what} raised nothing; expected {error.__name__}")


@contextmanager
def _refusal_allowed() -> Iterator[None]:
    """A method that cannot have these sizes may say so: a UsageError is an answer, any other error is not."""
    try:
        yield
    except UsageError:
        return


_GLOBALS = (
    "Python's random state",
    "NumPy's global random state",
    "torch's global random state",
    "torch's thread count",
    "torch's gradient mode",
    "torch's default dtype",
    "torch's matmul precision",
)


def _global_state() -> tuple[Any, ...]:
    import torch

    return (
        random.getstate(),
        [np.asarray(part).tobytes() for part in np.random.get_state()],  # noqa: NPY002 - it is what is looked at
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Other global random states for a while, put back afterwards."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
