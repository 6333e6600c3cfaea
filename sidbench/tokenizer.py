"""Tokenizer: the one interface of every method. What a contributor must read is this file."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from sidbench import __version__
from sidbench.dataset import Embeddings, check_embeddings
from sidbench.errors import ContractError, DataError, UnsupportedError, UsageError
from sidbench.plugin import Plugin
from sidbench.sids import Codes, check_codes

#: What a run states of itself in a record's facts: a tokenizer's own have other names.
RUN_FACTS = {"sizes", "sid_sizes", "floor", "encode_chunk", "ran_on", "beam", "decoder", "resolver", "notes"}

Size = Annotated[int, Field(ge=1, le=65_536)]
T = TypeVar("T", bound="Tokenizer")


class Tokenizer(Plugin, ABC):
    """Turns item embeddings into codes, one a level.

    Write `fit` and `encode`; the rest has defaults. Both are given what they can rely on: `x` is a
    read-only, C-ordered, finite float32 array of shape (items, dimensions). What `encode` returns is checked:
    integers of shape (items, levels), 0-based, below each level's size. The code of a row depends on that row
    alone, never on its batch. What `fit` learns goes to attributes ending in `_`, which `save` keeps.
    """

    kind: ClassVar[str] = "tokenizer"
    group: ClassVar[str] = "Every tokenizer's"
    #: Where the method was described.
    paper: ClassVar[str] = ""
    #: Parameters that make it run in seconds: what the conformance kit and quick looks use.
    quick: ClassVar[dict[str, Any]] = {}
    #: True where codes carry no information about the item: a floor, not a method.
    floor: ClassVar[bool] = False

    #: Codes in a SID.
    levels: Annotated[int, Field(ge=1, le=16)] = 3
    #: Codes to choose from: one number for all levels, or one a level.
    codebook_size: Size | tuple[Size, ...] = 256
    #: One seed, one result.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    #: Where it runs: cpu, cuda, cuda:1; auto takes CUDA where there is one.
    device: str = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for method, guard in _GUARDS.items():
            if method in vars(cls) and not getattr(vars(cls)[method], "__isabstractmethod__", False):
                setattr(cls, method, guard(vars(cls)[method]))

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.codebook_size
        if isinstance(size, tuple) and len(size) != self.levels:
            raise UsageError(
                f"{self.name}.codebook_size names {len(size)} sizes for levels = {self.levels}; "
                f"set levels = {len(size)} or give one size for all"
            )
        if min(self.sizes) < 2:
            raise UsageError(
                f"{self.name}.codebook_size = {size!r}: a level of one code says nothing about an item; "
                "give every level at least 2 codes, or leave the level out (levels = N)"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of codes at each level."""
        size = self.codebook_size
        return size if isinstance(size, tuple) else (size,) * self.levels

    @property
    def fewest(self) -> int:
        """The fewest items that `fit` can learn from; a method whose codes need no items overrides it."""
        return max(self.sizes)

    @abstractmethod
    def fit(self, x: Embeddings) -> Self:
        """Learn from the catalogue; return self."""

    @abstractmethod
    def encode(self, x: Embeddings) -> Codes:
        """The codes of any items, seen before or not: (items, levels) integers."""

    def fit_encode(self, x: Embeddings) -> Codes:
        """Learn from the catalogue and give its codes; one that places all items jointly overrides it."""
        return self.fit(x).encode(x)

    def costs(self, x: Embeddings, prefix: Codes) -> NDArray[np.float32]:
        """Optional: (items, codes) cost of each next code after each item's prefix of codes."""
        raise UnsupportedError(f"{self.name} gives no costs: a resolver that needs distances cannot use it")

    def reconstruct(self, codes: Codes) -> NDArray[np.float32]:
        """Optional: the embedding that the codes stand for; fewer columns than levels decode a prefix."""
        raise UnsupportedError(f"{self.name} does not reconstruct embeddings")

    def codes_of(self, item_ids: NDArray[Any]) -> Codes:
        """Optional: the codes of these items by their ids, where they are looked up and nothing is fitted."""
        raise UnsupportedError(f"{self.name} computes codes from embeddings: call fit_encode(x)")

    @classmethod
    def supports(cls, ability: str) -> bool:
        """Whether an optional ability is declared, which is to say written."""
        return getattr(cls, ability) is not getattr(Tokenizer, ability)

    def facts(self) -> dict[str, Any]:
        """What `auto` became and what else a record should keep, once fitted (backend, device, rows used)."""
        return {}

    def curves(self) -> dict[str, list[float] | NDArray[Any]]:
        """What training went through by epoch (losses, collisions), if anything; kept in the record."""
        return {}

    def _check_enough(self, x: Embeddings) -> None:
        if len(x) < self.fewest:
            raise DataError(
                f"{self.name}: codebook_size = {max(self.sizes)} is larger than the catalogue of {len(x)} "
                f"items; set codebook_size to at most {len(x)}, or fit on more items"
            )

    def state(self) -> dict[str, Any]:
        """What was learned: attributes ending in `_`; arrays, lists of arrays and JSON values."""
        return {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}

    def restore(self, state: dict[str, Any]) -> Self:
        """Put back what `state` gave."""
        for key, value in state.items():
            setattr(self, key, value)
        return self

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` and `tokenizer.safetensors`: no pickle, so safe to read from anyone."""
        from safetensors.numpy import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {}
        layout = {key: _put(f"{self.name}.{key}", value, key, tensors) for key, value in self.state().items()}
        if not layout:
            raise UsageError(f"{self.name} is not fitted: call fit(x) before save")
        save_file(tensors, folder / "tokenizer.safetensors")
        about = {
            "schema": 1,
            "name": self.name,
            "sidbench": __version__,
            # A file by its name: where it lay says nothing elsewhere, and what came of it is in the state.
            # Nor does the device that it was fitted on, which `facts` keep.
            "params": {
                **{k: v.name if isinstance(v, Path) else v for k, v in self.params().items()},
                "device": "auto",
            },
            "state": layout,
        }
        (folder / "tokenizer.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls: type[T], folder: Path | str, device: str = "auto") -> T:
        """Read what `save` of this class wrote, to run on `device`, wherever it was fitted.

        `registry.load_tokenizer` finds the class by name.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        about = read_about(folder)
        if about["name"] != cls.name:
            raise DataError(f"{folder} holds a fitted {about['name']!r}, not {cls.name!r}")
        try:
            tensors = load_file(folder / "tokenizer.safetensors")
            state = {key: _take(entry, tensors) for key, entry in about["state"].items()}
        except (OSError, KeyError, SafetensorError) as e:
            raise DataError(f"the tokenizer in {folder} cannot be read ({e}); fit it again") from None
        fitted: T = cls(**{**about["params"], "device": device}).restore(state)
        return fitted


def read_about(folder: Path) -> dict[str, Any]:
    """The JSON half of a saved tokenizer."""
    path = folder / "tokenizer.json"
    try:
        about = json.loads(path.read_text())
        if not {"name", "params", "state"} <= set(about):
            raise ValueError("name, params or state is missing")
    except FileNotFoundError:
        raise DataError(f"no fitted tokenizer in {folder}: {path.name} is missing") from None
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{path} cannot be read ({e}); fit the tokenizer again") from None
    return dict(about)


def as_embeddings(x: Any, where: str) -> Embeddings:
    """What a tokenizer is given: read-only, C-ordered, finite float32. Copies only what must change."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"{where}: embeddings are {kind}; expected a float NumPy array (items, dimensions)")
    y = np.ascontiguousarray(x, dtype=np.float32) if x.ndim else x
    y = y.view(np.ndarray)[...]
    y.flags.writeable = False
    check_embeddings(y, where)
    return y


def _guard_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def fit(self: Tokenizer, x: Any) -> Tokenizer:
        x = as_embeddings(x, f"{self.name}.fit")
        self._check_enough(x)
        itself: bool = method(self, x) is self
        if not itself:
            raise ContractError(f"{self.name}.fit must return self")
        return self

    return fit


def _guard_encode(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def encode(self: Tokenizer, x: Any) -> Codes:
        where = f"{self.name}.{method.__name__}"
        x = as_embeddings(x, where)
        if method.__name__ == "fit_encode":
            self._check_enough(x)
        codes = method(self, x)
        try:
            codes = check_codes(codes, self.sizes, where)
        except DataError as e:
            raise ContractError(str(e)) from None
        if len(codes) != len(x):
            raise ContractError(f"{where} returned {len(codes)} rows of codes for {len(x)} items")
        return codes

    return encode


def _guard_codes_of(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def codes_of(self: Tokenizer, item_ids: Any) -> Codes:
        codes = method(self, item_ids)
        try:
            codes = check_codes(codes, self.sizes, f"{self.name}.codes_of", variable=True)
        except DataError as e:
            raise ContractError(str(e)) from None
        if len(codes) != len(item_ids):
            raise ContractError(
                f"{self.name}.codes_of returned {len(codes)} rows of codes for {len(item_ids)} items"
            )
        return codes

    return codes_of


# The boundary, in one place: what goes in is made safe, what comes out is checked.
_GUARDS = {
    "fit": _guard_fit,
    "encode": _guard_encode,
    "fit_encode": _guard_encode,
    "codes_of": _guard_codes_of,
}


def _put(where: str, value: Any, key: str, tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """One learned value as a JSON entry; arrays go to `tensors`."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        tensors[key] = np.ascontiguousarray(value)
        return {"array": key}
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ndarray) for v in value):
        return {"list": [_put(where, v, f"{key}.{i}", tensors) for i, v in enumerate(value)]}
    try:
        return {"value": json.loads(json.dumps(value))}
    except (TypeError, ValueError):
        raise ContractError(
            f"{where} is {type(value).__name__}: learned state must be NumPy arrays, lists of them or JSON "
            "values (override state() and restore() for anything else)"
        ) from None


def _take(entry: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Any:
    if "array" in entry:
        return tensors[entry["array"]]
    if "list" in entry:
        return [_take(e, tensors) for e in entry["list"]]
    return entry["value"]
