"""Settings of a run: defaults, then a TOML file, then the command line. One place, checked once."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from sidbench.budget import EXPECTED, Budget
from sidbench.errors import UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def split_list(value: Any) -> Any:
    """`a,b, c` as a list, one number as a list of one; anything else as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def parse_budget(value: Any) -> Any:
    """`5m` as a Budget. A number alone could be seconds or sequences: it is neither."""
    if value is None or isinstance(value, Budget):
        return value
    if not isinstance(value, str):
        raise UsageError(f"budget = {value!r} does not fit; {EXPECTED}")
    return Budget.parse(value)


def whole_number(value: Any) -> Any:
    """`7` as it is; `0-2` and `0..2` are no numbers, whatever pydantic makes of them."""
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+", value):
        raise PydanticCustomError(
            "whole_number", "expected a whole number; several have commas between, such as 0,1,2"
        )
    return value


#: Options that name a person's own files: parameters of the dataset `files`, or of another that has them.
OWN = ("items", "sequences", "embeddings", "embedding", "columns")
Lists = BeforeValidator(split_list)
Names = Annotated[list[str], Field(min_length=1), Lists]
Whole = BeforeValidator(whole_number)
Cutoffs = Annotated[list[Annotated[int, Field(ge=1), Whole]], Field(min_length=1), Lists]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32), Whole]], Field(min_length=1), Lists]


class Settings(BaseModel):
    """What `sidbench run` takes. `set` holds parameters by plugin name, as `--set` gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: Names = ["all"]
    dataset: str = "synthetic"
    resolvers: Names = ["suffix"]
    decoder: str = "quick"  # with a budget in time: "timed"
    budget: Annotated[Budget | None, BeforeValidator(parse_budget)] = None
    protocol: str = "leave-one-out"
    seen: Literal["keep", "mask"] = "keep"
    cutoffs: Cutoffs = [1, 5, 10, 20]
    seeds: Seeds = [0]
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all cores that this process may use
    results: str = "results"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None  # of a Ray cluster that runs already
    log: Annotated[list[str], Lists] = []
    set: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _preset_of_a_budget(self) -> Settings:
        """Who names no decoder gets the one that is made for the budget."""
        if self.budget is not None and self.budget.seconds and "decoder" not in self.model_fields_set:
            object.__setattr__(self, "decoder", "timed")
        return self


def read_settings(config: Path | None, given: dict[str, Any], sets: list[str]) -> Settings:
    """Defaults < the run file < the command line. `given` holds only what the person wrote."""
    values: dict[str, Any] = {} if config is None else _read_toml(config)
    values.update({k: v for k, v in given.items() if v is not None})
    parameters = {target: dict(entries) for target, entries in _tables(values.get("set", {}), config).items()}
    for text in sets:
        target, key, value = parse_set(text)
        parameters.setdefault(target, {})[key] = value
    values["set"] = parameters
    _own_files(values)
    for key in values:
        if key not in Settings.model_fields:
            raise UsageError(
                f"{config}: there is no setting {key!r}{nearest(key, Settings.model_fields)} "
                f"Known: {', '.join([*Settings.model_fields, *OWN])}."
            )
    try:
        return Settings(**values)
    except ValidationError as e:
        said = "; ".join(
            f"{'.'.join(str(p) for p in x['loc'])} = {x['input']!r}: {x['msg']}" for x in e.errors()
        )
        raise UsageError(f"settings do not fit: {said}") from None


def _own_files(values: dict[str, Any]) -> None:
    """`items` and what belongs to it are parameters of the dataset."""
    own = {key: values.pop(key) for key in OWN if key in values}
    if not own:
        return
    if "items" in own:
        if "dataset" in values:
            raise UsageError(f"give --dataset {values['dataset']} or --items {own['items']}, not both")
        values["dataset"] = "files"
    elif "dataset" not in values:
        raise UsageError(f"--{next(iter(own))} belongs to data: give --items FILE, or --dataset NAME, too")
    values["set"]["dataset"] = {**own, **values["set"].get("dataset", {})}


def parse_set(text: str) -> tuple[str, str, Any]:
    """`rq-kmeans.iters=50` as (rq-kmeans, iters, 50); the value is read as TOML, else as text."""
    left, equals, value = text.partition("=")
    target, dot, key = left.strip().rpartition(".")
    if not (equals and dot and target and key):
        raise UsageError(
            f"--set {text!r} does not fit; expected NAME.PARAMETER=VALUE, such as rq-kmeans.iters=50"
        )
    try:
        return target, key, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return target, key, value.strip()


def _tables(value: Any, config: Path | None) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise UsageError(
            f"{config}: [set] must hold one table a plugin, such as [set.rq-kmeans] with iters = 50"
        )
    return value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no run file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"{path} cannot be read as TOML: {e}") from None
