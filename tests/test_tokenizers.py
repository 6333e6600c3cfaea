"""Every tokenizer that is found meets every check of the conformance kit, and explains its parameters."""

import pytest

from sidbench import registry
from sidbench.decoder import Decoder
from sidbench.plugin import Plugin, parameter_docs, required
from sidbench.testing import Check, tokenizer_checks
from sidbench.tokenizer import Tokenizer

# What needs a value that only a person has (a file of SIDs) is tested where it can be given one.
FREE: list[type[Tokenizer]] = [cls for cls in registry.tokenizers().values() if not required(cls)]
CHECKS = [check for cls in FREE for check in tokenizer_checks(cls)]
PLUGINS: list[type[Plugin]] = [
    *registry.tokenizers().values(),
    *registry.datasets().values(),
    *registry.resolvers().values(),
    *registry.references().values(),
    Decoder,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.plugin}-{c}")
def test_tokenizer(check: Check) -> None:
    check()


@pytest.mark.parametrize("cls", PLUGINS, ids=lambda c: c.name)
def test_every_parameter_is_explained_in_a_line(cls: type[Plugin]) -> None:
    silent = [name for name, (_, line) in parameter_docs(cls).items() if not line]
    assert not silent, f"no `#:` line above {', '.join(silent)}"


def test_the_first_methods_are_found() -> None:
    assert {"random", "rq-kmeans"} <= set(registry.tokenizers())
