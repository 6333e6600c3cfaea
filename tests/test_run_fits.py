"""What a run does around a tokenizer's fit: checkpoints, curves, look-ups, errors that name the remedy."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sidbench import bench, checkpoints, clock, plan
from sidbench.record import RunRecord, Store
from sidbench.settings import read_settings
from tests.conftest import PluginFolder, Said
from tests.tiny import WORLD, decoder

Cli = Callable[..., "Said"]
pytestmark = pytest.mark.usefixtures("threads")

#: A row in a fraction of a second, its codes as many as they are.
TINY = [*WORLD, *decoder(steps=2)]
HEAD = """
import numpy as np
from pathlib import Path
from sidbench import checkpoints
from sidbench.tokenizer import Tokenizer

class {cls}(Tokenizer):
    "A tokenizer of a test."

    name = "{name}"

    def encode(self, x):
        return np.zeros((len(x), self.levels), dtype=np.int64)
"""


def plugin(name: str, body: str) -> str:
    return HEAD.format(cls=name.title().replace("-", ""), name=name) + textwrap.indent(
        textwrap.dedent(body), "    "
    )


def records(folder: Path) -> dict[str, RunRecord]:
    return {r.label: r for _, r in Store(folder).all() if isinstance(r, RunRecord)}


def test_a_fit_that_was_cut_off_finds_its_checkpoints_again(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    assert checkpoints.place() is None
    plugin_folder.write(
        "slow",
        plugin(
            "slow",
            """
            def fit(self, x):
                mark = checkpoints.place() / "mark"
                if not mark.exists():
                    mark.parent.mkdir(parents=True)
                    mark.write_text("half")
                    raise KeyboardInterrupt
                self.went_on_ = 1
                return self
            """,
        ),
    )
    line = ("run", *TINY, "--methods", "slow", "--results", tmp_path / "r")
    assert sidbench_cli(*line).code == 130
    assert list((tmp_path / "r" / "unfinished").glob("*/*/mark"))
    listed = sidbench_cli("clean", "--results", tmp_path / "r")
    assert "did not finish" in listed.out
    assert sidbench_cli(*line).code == 0
    assert records(tmp_path / "r")["slow"].status == "ok"
    assert not list((tmp_path / "r" / "unfinished").glob("*")), "a run that is done needs no checkpoints"


def test_clean_removes_checkpoints(sidbench_cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert sidbench_cli("run", *TINY, "--methods", "popularity", "--results", folder).code == 0
    (folder / "unfinished" / "0123456789ab" / "code").mkdir(parents=True)
    assert sidbench_cli("clean", "--yes", "--results", folder).code == 0
    assert not (folder / "unfinished").exists()


def test_curves_are_kept_beside_the_record(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write(
        "learns",
        plugin(
            "learns",
            """
            def fit(self, x):
                self.loss_ = [3.0, 2.0, 1.5]
                return self

            def curves(self):
                return {"loss": self.loss_}
            """,
        ),
    )
    assert sidbench_cli("run", *TINY, "--methods", "learns", "--results", tmp_path / "r").code == 0
    store = Store(tmp_path / "r")
    (record,) = records(tmp_path / "r").values()
    np.testing.assert_array_equal(store.vectors(record)["fit_loss"], [3.0, 2.0, 1.5])


LOOKUP = """
    def fit(self, x):
        raise RuntimeError("nothing is fitted")

    def codes_of(self, item_ids):
        self.found_ = 1
        return np.stack([np.asarray(item_ids) // 100, np.asarray(item_ids) % 100], axis=1)
"""


def test_codes_that_are_looked_up_follow_the_items(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write("table", plugin("table", LOOKUP))
    line = ("--methods", "table", "--set", "table.levels=2", "--results", tmp_path / "r")
    assert sidbench_cli("run", *TINY, *line).code == 0
    (record,) = records(tmp_path / "r").values()
    # Every item has its own: whatever order the rows were shuffled into.
    assert record.metrics["collision_items"] == 0
    assert "fit_seconds" not in record.measured
    assert "encode_items_per_second" not in record.measured
    shown = json.loads(
        sidbench_cli("show", "table", "--item", "217", "--json", "--results", tmp_path / "r").out
    )
    assert shown["sid"][:2] == [2, 17]
    assert sidbench_cli("leaderboard", "--results", tmp_path / "r", "--check").code == 0


def test_what_needs_a_file_is_no_part_of_all(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    needs = "from pathlib import Path\n" + plugin("needs-file", "path: Path\n\n" + textwrap.dedent(LOOKUP))
    plugin_folder.write("needs_file", needs)
    file = tmp_path / "sids.txt"
    file.write_text("")
    given = [f"needs-file.path={file}"]
    for sets, there in (([], False), (given, True)):
        settings = read_settings(None, {"dataset": "synthetic:tiny", "methods": "all"}, sets)
        labels = [t.label for t in plan.make_plan(settings, dry=True).tasks]
        assert ("needs-file" in labels) is there
        assert {"random", "rq-vae", "popularity"} <= set(labels)
    named = sidbench_cli("run", *TINY, "--methods", "needs-file", "--results", tmp_path / "r")
    assert named.code == 2
    assert "needs a value for path (--set needs-file.path=...)" in named.err


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError("x"), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_running_out_of_memory_is_known_for_what_it_is(error: Exception, is_memory: bool) -> None:
    assert clock.is_out_of_memory(error) is is_memory


def test_running_out_of_memory_names_remedies(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path
) -> None:
    plugin_folder.write("greedy", plugin("greedy", "def fit(self, x):\n    np.empty(1 << 50)\n"))
    said = sidbench_cli("run", *TINY, "--methods", "greedy,popularity", "--results", tmp_path / "r")
    assert said.code == 1
    found = records(tmp_path / "r")
    assert found["popularity"].status == "ok"
    error = found["greedy"].error
    assert error is not None
    assert error["stage"] == "fit"
    assert error["message"].startswith("out of memory (greedy.py, line ")
    assert "batch_size" in error["message"]


def test_a_codebook_larger_than_the_catalogue_is_refused(sidbench_cli: Cli, tmp_path: Path) -> None:
    line = ("--methods", "rq-kmeans,popularity", "--set", "rq-kmeans.codebook_size=[8,301,8]")
    assert sidbench_cli("run", *TINY, *line, "--results", tmp_path / "r").code == 1
    error = records(tmp_path / "r")["rq-kmeans"].error
    assert error is not None
    assert "codebook_size = 301 is larger than the catalogue of 300 items" in error["message"]
    assert "at most 300" in error["message"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("codebook_size=1", "a level of one code says nothing"),
        ("codebook_size=[8,1,8]", "leave the level out"),
        ("codebook_size=[8,8]", "names 2 sizes for levels = 3"),
        ("codebook_size=70000", "less than or equal to 65536"),
    ],
)
def test_level_sizes_that_make_no_sense_are_refused_before_the_run(
    sidbench_cli: Cli, tmp_path: Path, value: str, said: str
) -> None:
    found = sidbench_cli("run", *TINY, "--set", f"rq-kmeans.{value}", "--results", tmp_path / "r")
    assert found.code == 2
    assert said in found.err
    assert not (tmp_path / "r" / "records").exists()


def test_a_gpu_that_is_not_there_is_refused_before_the_run(
    sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = sidbench_cli("run", *TINY, "--device", "cuda", "--results", tmp_path / "r")
    assert found.code == 2
    assert "use device = auto or cpu" in found.err


def test_the_parameters_of_one_plugin_are_explained(sidbench_cli: Cli) -> None:
    said = sidbench_cli("list", "--params", "rq-kmeans")
    assert said.code == 0
    assert "Lloyd's iterations a level" in said.out
    told = json.loads(sidbench_cli("list", "--params", "rq-kmeans", "--json").out)
    iters = next(p for p in told["parameters"] if p["name"] == "iters")
    assert iters["takes"] == "integer >= 1"
    assert iters["of"] == "RQKMeans"
    size = next(p for p in told["parameters"] if p["name"] == "codebook_size")
    assert size["takes"] == "integer 1 to 65536 or a list of them"
    for name in ("decoder", "paper", "synthetic", "suffix", "item-knn"):
        assert sidbench_cli("list", "--params", name).code == 0
    wrong = sidbench_cli("list", "--params", "rq-kmean")
    assert wrong.code == 2
    assert "did you mean 'rq-kmeans'" in wrong.err


def test_a_fit_that_takes_long_is_judged_by_how_far_it_came(
    plugin_folder: PluginFolder, sidbench_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidbench.estimate.TRIAL", 0.05)
    plugin_folder.write(
        "long",
        plugin(
            "long",
            """
            def fit(self, x):
                import time
                from sidbench.progress import report
                for step in range(1000):
                    report("fit", step, 1000)
                    time.sleep(0.02)
                self.done_ = 1
                return self
            """,
        ),
    )
    said = sidbench_cli("run", *TINY, "--methods", "long", "--dry-run", "--json", "--results", tmp_path / "r")
    (row,) = json.loads(said.out)["rows"]
    assert 18 < row["seconds"] < 60


def test_the_chunk_of_the_timed_encode_is_told(sidbench_cli: Cli, tmp_path: Path) -> None:
    sidbench_cli("run", *TINY, "--methods", "random", "--results", tmp_path / "r")
    assert records(tmp_path / "r")["random"].facts["encode_chunk"] == bench.ENCODE_CHUNK
