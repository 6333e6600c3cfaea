"""Plugin: typed parameters with bounds, one declaration for everything; learned state ends in `_`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from sidbench.errors import NotFittedError, UsageError
from sidbench.plugin import Plugin, configure, parameter_types

Size = Annotated[int, Field(ge=1, le=65_536)]


class Sized(Plugin):
    """A union of two shapes, as codebook_size is."""

    name = "sized"

    size: Size | tuple[Size, ...] = 256


class Knobs(Plugin):
    """Knobs to turn.

    More about them.
    """

    name = "knobs"
    quick: ClassVar[dict[str, Any]] = {"rounds": 1}

    rounds: Annotated[int, Field(ge=1)] = 10
    rate: Annotated[float, Field(gt=0)] = 0.1
    sizes: int | tuple[int, ...] = 4
    mode: Literal["slow", "fast"] = "slow"
    file: Path = Path("a")


class More(Knobs):
    name = "more"
    depth: int = 2


class Needs(Plugin):
    name = "needs"
    path: Path


def test_annotated_attributes_are_the_parameters_and_plain_ones_are_not() -> None:
    assert list(Knobs().params()) == ["rounds", "rate", "sizes", "mode", "file"]
    assert list(More().params()) == [*Knobs().params(), "depth"]
    assert list(parameter_types(Knobs)) == list(Knobs().params())


@pytest.mark.parametrize(
    ("key", "given", "stored"),
    [("rounds", "7", 7), ("rate", 1, 1.0), ("sizes", [2, 3], (2, 3)), ("file", "b/c", Path("b/c"))],
)
def test_values_become_the_declared_type(key: str, given: Any, stored: Any) -> None:
    made = configure(Knobs, {key: given}).params()[key]
    assert made == stored
    assert type(made) is type(stored)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rounds", 0, "greater than or equal to 1"),
        ("rounds", 2.5, "valid integer"),
        ("rate", "quick", "valid number"),
        ("rate", 0.0, "greater than 0"),
        ("mode", "medium", "'slow' or 'fast'"),
        ("sizes", "many", "valid integer"),
    ],
)
def test_a_value_that_does_not_fit_is_one_message(key: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        configure(Knobs, {key: value})
    assert f"knobs.{key} = {value!r}" in str(error.value)


def test_an_unknown_name_says_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="knobs has no parameter 'round'; did you mean 'rounds'") as error:
        configure(Knobs, {"round": 3})
    assert "rate" in str(error.value)
    with pytest.raises(UsageError, match="no parameter 'name'"):
        configure(Knobs, {"name": "other"})


def test_a_parameter_without_a_default_is_asked_for() -> None:
    with pytest.raises(UsageError, match="needs needs a value for path"):
        configure(Needs, {})


def test_replace_is_a_fresh_copy() -> None:
    one = Knobs(rounds=3)
    one.codes_ = [1]  # type: ignore[attr-defined]
    two = one.replace(rate=0.5)
    assert (two.rounds, two.rate, one.rate) == (3, 0.5, 0.1)
    with pytest.raises(NotFittedError):
        _ = two.codes_
    assert one.replace() == one
    with pytest.raises(UsageError):
        one.replace(rounds=0)


def test_equality_is_that_of_class_and_parameters() -> None:
    assert Knobs() == Knobs(rounds=10)
    assert Knobs() != Knobs(rounds=11)
    assert Knobs() != More()
    assert Knobs() != "knobs"
    assert len({Knobs(), Knobs(), More()}) == 2


def test_the_round_trips() -> None:
    one = Knobs(rounds=3, sizes=(2, 3))
    assert Knobs(**one.params()) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert eval(repr(one), {"Knobs": Knobs, **{type(one.file).__name__: Path}}) == one


def test_what_is_learned_is_missing_before_fit() -> None:
    with pytest.raises(NotFittedError, match="knobs is not fitted"):
        _ = Knobs().codebooks_
    assert not hasattr(Knobs(), "codebooks_")  # an AttributeError too
    with pytest.raises(AttributeError, match="no attribute 'roundz'"):
        _ = Knobs().roundz


def test_the_summary_is_the_first_line() -> None:
    assert Knobs.summary() == "Knobs to turn."

    class Silent(Plugin):
        name = "silent"
        rounds: int = 3

    assert Silent.summary() == ""


@pytest.mark.parametrize(
    ("size", "said", "unsaid"),
    [
        (70_000, "less than or equal to 65536", "tuple"),
        ((70_000, 2), "less than or equal to 65536", "valid integer"),
        ("x", "valid integer", "tuple"),
    ],
)
def test_of_a_union_only_the_half_that_was_meant_is_told(size: Any, said: str, unsaid: str) -> None:
    with pytest.raises(UsageError) as caught:
        configure(Sized, {"size": size})
    assert said in str(caught.value)
    assert unsaid not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("16,32", r"write a list as \[16,32\]"),
        ((1,), "too few values"),
        ((1, 2, 3), "at most 2"),
    ],
)
def test_a_list_that_is_none_or_too_short_says_how_it_is_written(value: Any, said: str) -> None:
    class Pair(Plugin):
        name = "pair"

        both: tuple[int, int] = (1, 2)

    with pytest.raises(UsageError, match=said):
        Pair(both=value)
