"""Every tokenizer that is found meets every check of the conformance kit."""

import pytest

from sidbench import registry
from sidbench.testing import Check, tokenizer_checks

CHECKS = [check for cls in registry.tokenizers().values() for check in tokenizer_checks(cls)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.plugin}-{c}")
def test_tokenizer(check: Check) -> None:
    check()


def test_the_first_methods_are_found() -> None:
    assert {"random", "rq-kmeans"} <= set(registry.tokenizers())
