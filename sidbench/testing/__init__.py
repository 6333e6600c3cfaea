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

from collections.abc import Callable, Iterator
from typing import Any

from sidbench.dataset import Dataset
from sidbench.errors import UsageError
from sidbench.plugin import Plugin
from sidbench.resolver import Resolver
from sidbench.testing.core import Check, CheckResult, catalogue
from sidbench.testing.dataset import DATASET_CHECKS, DatasetSubject, check_dataset, dataset_checks
from sidbench.testing.resolver import (
    RESOLVER_CHECKS,
    Coarse,
    ResolverSubject,
    check_resolver,
    resolver_checks,
)
from sidbench.testing.tokenizer import (
    SMALL,
    TOKENIZER_CHECKS,
    TokenizerSubject,
    check_tokenizer,
    tokenizer_checks,
)
from sidbench.tokenizer import Tokenizer

__all__ = [
    "DATASET_CHECKS",
    "RESOLVER_CHECKS",
    "SMALL",
    "TOKENIZER_CHECKS",
    "Check",
    "CheckResult",
    "Coarse",
    "DatasetSubject",
    "ResolverSubject",
    "TokenizerSubject",
    "catalogue",
    "check_dataset",
    "check_resolver",
    "check_tokenizer",
    "checks",
    "dataset_checks",
    "resolver_checks",
    "run_checks",
    "tokenizer_checks",
]


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


_KINDS: dict[type[Plugin], Callable[..., list[Check]]] = {
    Tokenizer: tokenizer_checks,
    Resolver: resolver_checks,
    Dataset: dataset_checks,
}
