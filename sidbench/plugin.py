"""Plugin: a named dataclass whose annotated attributes are its parameters."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import dataclass_transform

from sidbench.errors import NotFittedError, UsageError, nearest

P = TypeVar("P", bound="Plugin")


@dataclass_transform(kw_only_default=True)
class Plugin:
    """Base of everything that is found by name: tokenizers, datasets, resolvers, references, decoders.

    Annotated attributes are parameters: typed, with a default, bounds in `Annotated[int, Field(ge=1)]`.
    Plain attributes are metadata. What is learned ends in `_`; reading it too early says so.
    """

    kind: ClassVar[str] = "plugin"
    name: ClassVar[str] = ""
    #: The heading over the parameters that a shared base declares, in `sidbench list --params`.
    group: ClassVar[str] = ""
    #: Parameters that decide nothing of the result: another value is the same run.
    incidental: ClassVar[tuple[str, ...]] = ()
    #: Parameters that came after records were written: at its default, such a one names no other run.
    added: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__doc__
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.__doc__ = own  # where there is none, a dataclass makes one up: its signature

    def __init__(self, **params: Any) -> None:  # replaced by the dataclass of every subclass
        raise UsageError(f"{type(self).__name__} declares no parameters of its own and cannot be made")

    def __post_init__(self) -> None:
        types = parameter_types(type(self))
        for key, adapter in types.items():
            try:
                object.__setattr__(self, key, adapter.validate_python(getattr(self, key)))
            except ValidationError as e:
                raise UsageError(_explain(self.name, key, getattr(self, key), e)) from None

    def params(self) -> dict[str, Any]:
        """The parameters as a record keeps them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def deciding(self) -> dict[str, Any]:
        """The parameters that decide the result, and so name its record."""
        default = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        young = {k for k in self.added if getattr(self, k) == default[k]}
        return {k: v for k, v in self.params().items() if k not in self.incidental and k not in young}

    def replace(self: P, **changes: Any) -> P:
        """A fresh, unfitted copy with some parameters changed."""
        return type(self)(**{**self.params(), **changes})

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.params().items())
        return f"{type(self).__name__}({inner})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plugin) and type(self) is type(other) and self.params() == other.params()

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __getattr__(self, key: str) -> Any:
        if key.endswith("_") and not key.startswith("_"):
            raise NotFittedError(f"{self.name} is not fitted ({key} is missing): call fit(x) first")
        raise AttributeError(f"{type(self).__name__!r} has no attribute {key!r}")

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring: what `sidbench list` prints."""
        lines = (cls.__doc__ or "").strip().splitlines()
        return lines[0].strip() if lines else ""


def parameter_types(cls: type[Any]) -> dict[str, TypeAdapter[Any]]:
    """Every parameter of a plugin class with the validator of its type and bounds."""
    key: Any = cls  # mypy does not take a class for hashable
    return _types(key)


@cache
def _types(cls: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    config = ConfigDict(arbitrary_types_allowed=True)
    out = {}
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        out[f.name] = TypeAdapter(hint) if _own_config(hint) else TypeAdapter(hint, config=config)
    return out


def configure(cls: type[P], values: dict[str, Any]) -> P:
    """Make a plugin from a person's values; an unknown name says what was expected."""
    known = parameter_types(cls)
    for key in values:
        if key not in known:
            if not known:
                raise UsageError(f"{cls.name} has no parameters; leave out {cls.name}.{key}")
            # By name: what other systems call things decides no result, so it is in no record's code.
            elsewhere = importlib.import_module("sidbench.origins").advice(cls.name, key, known)
            hint = f"; {elsewhere}." if elsewhere else nearest(key, known)
            raise UsageError(f"{cls.name} has no parameter {key!r}{hint} Known: {', '.join(known)}.")
    missing = [name for name in required(cls) if name not in values]
    if missing:
        raise UsageError(
            f"{cls.name} needs a value for {', '.join(missing)} (--set {cls.name}.{missing[0]}=...)"
        )
    return cls(**values)


def required(cls: type[Plugin]) -> list[str]:
    """The parameters that have no default: without them there is no such plugin."""
    return [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is f.default_factory is dataclasses.MISSING
    ]


def parameter_docs(cls: type[Plugin]) -> dict[str, tuple[str, str]]:
    """Every parameter with the class that declares it and its `#:` line, where its source can be read."""
    found: dict[str, tuple[str, str]] = {}
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for owner in reversed(cls.__mro__):
        own = names & set(vars(owner).get("__annotations__", ()))
        said = _doc_lines(owner) if own else {}
        found.update({name: (owner.__name__, said.get(name, "")) for name in own})
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


@cache
def _doc_lines(owner: Any) -> dict[str, str]:
    """The `#:` lines above the annotated attributes of one class, joined where there are several."""
    try:
        lines = inspect.getsource(owner).splitlines()
    except (OSError, TypeError):  # made in an interpreter
        return {}
    said: dict[str, str] = {}
    above: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("#:"):
            above.append(text[2:].strip())
        else:
            name = re.match(r"(\w+)\s*:", text)
            if name and above:
                said[name[1]] = " ".join(above)
            above = []
    return said


def _own_config(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or hasattr(hint, "model_fields")


def _explain(name: str, key: str, value: Any, error: ValidationError) -> str:
    # Of a union, the half that is of the value's own type: that a number is no tuple says nothing.
    found = error.errors()
    if isinstance(value, str) and "," in value and any("tuple" in f"{e['loc']} {e['type']}" for e in found):
        return f"{name}.{key} = {value!r} does not fit: write a list as [{value}]"
    near = [e for e in found if not e["type"].endswith("_type")] or found
    # A list that is too short lacks the field of some number.
    said = "; ".join(dict.fromkeys("too few values" if e["type"] == "missing" else e["msg"] for e in near))
    return f"{name}.{key} = {value!r} does not fit: {said}"
