"""Settings: defaults, then the run file, then the command line; what does not fit is one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidbench.errors import UsageError
from sidbench.settings import Settings, parse_set, read_settings


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "runs.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_readme() -> None:
    s = read_settings(None, {}, [])
    assert (s.methods, s.dataset, s.resolvers, s.decoder) == (["all"], "synthetic", ["suffix"], "quick")
    assert (s.cutoffs, s.protocol, s.seeds, s.seen) == ([1, 5, 10, 20], "leave-one-out", [0], "keep")


def test_the_command_line_goes_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        methods = ["rq-kmeans", "rq-kmeans@long"]
        dataset = "synthetic:tiny"
        seeds = [1, 2]
        [set.rq-kmeans]
        iters = 5
        starts = 2
        [set."rq-kmeans@long"]
        iters = 50
        """,
    )
    given = {"dataset": "other", "seeds": None, "methods": None}
    s = read_settings(file, given, ["rq-kmeans.iters=7", "decoder.steps=3"])
    assert s.methods == ["rq-kmeans", "rq-kmeans@long"]
    assert (s.dataset, s.seeds, s.decoder) == ("other", [1, 2], "quick")
    assert s.set == {
        "rq-kmeans": {"iters": 7, "starts": 2},
        "rq-kmeans@long": {"iters": 50},
        "decoder": {"steps": 3},
    }


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("rq-kmeans.iters=50", ("rq-kmeans", "iters", 50)),
        ("rq-kmeans@v1.5.iters = 3", ("rq-kmeans@v1.5", "iters", 3)),
        ("a.rate=1e-3", ("a", "rate", 1e-3)),
        ("a.on=true", ("a", "on", True)),
        ("a.sizes=[2, 3]", ("a", "sizes", [2, 3])),
        ("a.backend=torch", ("a", "backend", "torch")),
        ("a.backend='torch'", ("a", "backend", "torch")),
        ("a.path=/b/c=d", ("a", "path", "/b/c=d")),
        ("a.note=", ("a", "note", "")),
    ],
)
def test_set_reads_values_as_toml_else_as_text(text: str, parsed: tuple[str, str, Any]) -> None:
    assert parse_set(text) == parsed


@pytest.mark.parametrize("text", ["iters=5", "rq-kmeans.iters", ".iters=5", "rq-kmeans.=5", "", "="])
def test_set_without_its_parts_shows_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected NAME\.PARAMETER=VALUE, such as rq-kmeans\.iters=50"):
        parse_set(text)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"seeds": "0, 1,2"}, {"seeds": [0, 1, 2]}),
        ({"cutoffs": "10"}, {"cutoffs": [10]}),
        ({"methods": "a,b"}, {"methods": ["a", "b"]}),
    ],
)
def test_lists_are_what_stands_between_commas(given: dict[str, Any], stored: dict[str, Any]) -> None:
    settings = read_settings(None, given, []).model_dump()
    assert {k: settings[k] for k in stored} == stored


def test_a_file_may_write_one_value_for_a_list(tmp_path: Path) -> None:
    s = read_settings(toml(tmp_path, 'seeds = 3\nmethods = "random,rq-kmeans"\ncutoffs = "5,10"'), {}, [])
    assert (s.seeds, s.methods, s.cutoffs) == ([3], ["random", "rq-kmeans"], [5, 10])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": "0,x"}, "seeds.1 = 'x': .*whole number"),
        ({"seeds": "0-2"}, "seeds.0 = '0-2': .*commas between"),
        ({"cutoffs": "5..10"}, "cutoffs.0 = '5..10': .*commas between"),
        ({"seeds": "-1"}, "seeds.0 = '-1': .*greater than or equal to 0"),
        ({"cutoffs": "0"}, "cutoffs.0 = '0': .*greater than or equal to 1"),
        ({"methods": ""}, r"methods = \[\]: .*at least 1 item"),
        ({"seen": "hide"}, "seen = 'hide': .*'keep' or 'mask'"),
        ({"threads": -1}, "threads = -1"),
    ],
)
def test_a_value_that_does_not_fit_is_one_message(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_settings(None, given, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method = ['a']", "no setting 'method'; did you mean 'methods'"),
        ("set = 3", r"\[set\] must hold one table a plugin"),
        ("[set]\niters = 3", r"\[set\] must hold one table a plugin"),
        ("methods = [", "cannot be read as TOML"),
        ("seeds = [[1]]", "seeds.0"),
    ],
)
def test_a_file_that_does_not_fit_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_settings(toml(tmp_path, text), {}, [])
    assert "runs.toml" in str(error.value) or "seeds" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run file"):
        read_settings(tmp_path / "no.toml", {}, [])
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path, {}, [])


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seeds = [3]


def test_ctrl_c_while_python_loads_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidbench import __main__

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidbench.cli.main", stopped)
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 130
