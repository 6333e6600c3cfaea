"""Registry: plugins from everywhere are found, broken ones are listed with their reason and harm nobody."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidbench.plugins
from sidbench import registry
from sidbench.errors import DataError, UsageError
from tests.conftest import PluginFolder

GOOD = """
    from sidbench.tokenizer import Tokenizer
    import numpy as np

    class {cls}(Tokenizer):
        "One code for all."
        name = "{name}"
        def fit(self, x):
            self.ok_ = 1
            return self
        def encode(self, x):
            return np.zeros((len(x), self.levels), dtype=np.int32)
"""


def good(name: str = "mine", cls: str = "Mine") -> str:
    return GOOD.format(name=name, cls=cls)


def reasons() -> dict[str, str]:
    return {b.name: b.reason for b in registry.scan().broken}


def test_the_projects_own_are_found_and_whole() -> None:
    registry.scan.cache_clear()
    assert {"random", "rq-kmeans"} <= registry.tokenizers().keys()
    assert {"keep", "suffix"} <= registry.resolvers().keys()
    assert {"popularity", "item-knn"} <= registry.references().keys()
    assert {"synthetic", "folder"} <= registry.datasets().keys()
    assert not registry.scan().broken
    assert set(registry.scan().origins.values()) == {"sidbench"}


def test_a_file_in_an_extra_folder_is_a_plugin(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("mine", good())
    found = registry.find("tokenizer", "mine")
    assert registry.scan().origins[found] == str(plugin_folder.path)
    assert (found(codebook_size=2).fit_encode(np.ones((3, 2), np.float32)) == 0).all()


def test_a_plugin_of_an_extra_folder_is_a_real_module(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("mine", good())
    made = registry.find("tokenizer", "mine")(levels=2)
    # What a spawned worker does: the class is named by its module, which is imported there.
    text = pickle.dumps(made)
    assert b"sidbench.plugins.mine" in text
    del sys.modules["sidbench.plugins.mine"]
    again = pickle.loads(text)
    assert again.params() == made.params()
    assert type(again).__module__ == "sidbench.plugins.mine"


def test_a_spawned_worker_finds_an_extra_folder(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("mine", good())
    made = registry.find("tokenizer", "mine")(levels=2)
    done = subprocess.run(
        [sys.executable, "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer))"],
        input=pickle.dumps(made),
        env={**os.environ, "SIDBENCH_PLUGIN_PATH": str(plugin_folder.path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == repr(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:", "it does not import: SyntaxError"),
        (
            "import no_such_module",
            "it does not import: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("raise SystemExit(3)", "it does not import: SystemExit: 3"),
        ("1 / 0", "it does not import: ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_import_is_listed(plugin_folder: PluginFolder, text: str, said: str) -> None:
    plugin_folder.write("harmed", text)
    plugin_folder.write("mine", good())
    assert said in reasons()["harmed"]
    assert "harmed.py" in next(b.detail for b in registry.scan().broken if b.name == "harmed")
    assert {"mine", "random", "rq-kmeans"} <= registry.tokenizers().keys()
    with pytest.raises(UsageError, match=r"tokenizer 'harmed' from .* cannot be used: it does not import"):
        registry.find("tokenizer", "harmed")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (good().replace('name = "mine"', ""), "Mine", "it has no name"),
        (good().replace("def encode", "def code"), "mine", "Mine does not write encode"),
        (good("random"), "random", "the name is taken by sidbench"),
        (
            good().replace('name = "mine"', 'name = "mine"\n        depth: "Nothing" = 1'),
            "mine",
            "the types of its parameters cannot be read: NameError",
        ),
        (
            good().replace('name = "mine"', 'name = "mine"\n        sizes: list = []'),
            "mine",
            "mutable default",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_listed(
    plugin_folder: PluginFolder, text: str, name: str, said: str
) -> None:
    plugin_folder.write("mine", text)
    plugin_folder.write("other", good("other", "Other"))
    assert said in reasons()[name]
    assert {"other", "random"} <= registry.tokenizers().keys()
    if name != "random":
        assert name not in registry.tokenizers()
    else:
        assert registry.tokenizers()["random"].__module__ == "sidbench.plugins.random_codes"


def test_bases_that_a_file_keeps_for_itself_are_no_plugins(plugin_folder: PluginFolder) -> None:
    base = good().replace("class Mine", "class _Base").replace('name = "mine"', "")
    plugin_folder.write("mine", base + '\n    class Mine(_Base):\n        "Mine."\n        name = "mine"\n')
    assert "mine" in registry.tokenizers()
    assert not reasons()


def test_an_imported_class_is_not_the_files_own(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("mine", "from sidbench.plugins.rq_kmeans import RQKMeans")
    assert registry.scan().origins[registry.tokenizers()["rq-kmeans"]] == "sidbench"
    assert not reasons()


def test_a_hidden_file_is_listed(plugin_folder: PluginFolder) -> None:
    plugin_folder.write("random_codes", good())
    assert "a file of the same name in" in reasons()["random_codes"]
    assert "mine" not in registry.tokenizers()


def test_a_folder_that_is_not_there_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    monkeypatch.setattr(sidbench.plugins, "__path__", [*sidbench.plugins.__path__, gone])
    registry.scan.cache_clear()
    assert reasons() == {gone: "there is no such folder"}
    assert "random" in registry.tokenizers()
    monkeypatch.undo()
    registry.scan.cache_clear()


def test_a_folder_named_twice_is_one_folder(
    plugin_folder: PluginFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin_folder.write("mine", good())
    both = sidbench.plugins.__path__
    monkeypatch.setattr(sidbench.plugins, "__path__", [*both, *(f"{p}/." for p in both)])
    registry.scan.cache_clear()
    assert not reasons()
    assert "mine" in registry.tokenizers()


def test_an_installed_package_adds_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    info = site / "toy-1.2.dist-info"
    (site / "toy").mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[sidbench.plugins]\ntoy = toy\nlost = toy.lost\nmore = toy.more:More\n"
    )
    (site / "toy" / "__init__.py").write_text("from toy.inner import Toy")
    (site / "toy" / "inner.py").write_text(textwrap.dedent(good("toy", "Toy")))
    (site / "toy" / "more.py").write_text(textwrap.dedent(good("more", "More")))
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    registry.scan.cache_clear()
    try:
        assert {"toy", "more", "random"} <= registry.tokenizers().keys()
        assert registry.scan().origins[registry.tokenizers()["toy"]] == "toy 1.2"
        assert "No module named 'toy.lost'" in reasons()["lost"]
    finally:
        monkeypatch.undo()
        for name in [m for m in sys.modules if m.partition(".")[0] == "toy"]:
            del sys.modules[name]
        registry.scan.cache_clear()


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown tokenizer 'rq-kmean'; did you mean 'rq-kmeans'"):
        registry.find("tokenizer", "rq-kmean")


def test_a_dataset_is_given_by_name_variant_path_or_name_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.make_dataset("synthetic").params()["size"] == "default"
    assert registry.make_dataset("synthetic:tiny", {"seed": 3}).params() == {"size": "tiny", "seed": 3}
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    np.save(folder / "items.npy", np.eye(4, dtype=np.float32))
    pq.write_table(pa.table({"user": [0, 1], "items": [[0, 1, 2], [3, 2, 1]]}), folder / "sequences.parquet")
    monkeypatch.setenv("SIDBENCH_DATA", str(tmp_path / "data"))
    for spec in ("shop", str(folder), f"folder:{folder}"):
        corpus = registry.load_dataset(spec)
        assert corpus.name == "shop"
        assert len(corpus) == 4


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("syntetic", "unknown dataset 'syntetic'; did you mean 'synthetic'.*Or give the path of a folder"),
        ("synthetic:tyni", "size = 'tyni' does not fit: Input should be 'tiny'"),
        ("/no/such/folder", "there is no folder /no/such/folder; give one with"),
        ("", "unknown dataset ''"),
    ],
)
def test_a_wrong_dataset_is_one_message(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        registry.make_dataset(spec)


def test_a_dataset_that_fails_to_load_is_one_message(plugin_folder: PluginFolder) -> None:
    plugin_folder.write(
        "torn",
        """
        from sidbench.dataset import Dataset

        class Torn(Dataset):
            "Torn."
            name = "torn"
            def load(self):
                return {}["x"]
        """,
    )
    with pytest.raises(DataError, match=r"dataset 'torn' does not load: KeyError: 'x' \(torn.py, line 8\)"):
        registry.load_dataset("torn")


def test_a_fitted_tokenizer_is_loaded_by_its_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    fitted = registry.find("tokenizer", "rq-kmeans")(levels=2, codebook_size=4).fit(x)
    fitted.save(tmp_path)
    assert (registry.load_tokenizer(tmp_path).encode(x) == fitted.encode(x)).all()


@pytest.mark.parametrize("name", ["rq-kmeans", "opq", "fsq"])
def test_a_tokenizer_fitted_on_a_device_loads_where_that_is_not(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    cls = registry.find("tokenizer", name)
    fitted = cls(**{**cls.quick, "levels": 2, "codebook_size": 4, "device": "cpu"}).fit(x)
    codes, facts = fitted.encode(x), fitted.facts()
    fitted.device = "cuda:99"
    fitted.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    about = json.loads(path.read_text())
    assert about["params"]["device"] == "auto"
    about["params"]["device"] = "cuda:99"  # as it once was kept
    for _ in range(2):
        loaded = registry.load_tokenizer(tmp_path)
        assert loaded.device == "auto"
        assert (loaded.encode(x) == codes).all()
        assert loaded.facts() == facts
        path.write_text(json.dumps(about))
    assert registry.load_tokenizer(tmp_path, device="cpu").device == "cpu"
    with pytest.raises(UsageError, match=r"cuda:99.*is not there"):
        registry.load_tokenizer(tmp_path, device="cuda:99").encode(x)


def test_a_base_without_a_name_that_others_of_the_file_share_is_not_broken(
    plugin_folder: PluginFolder,
) -> None:
    text = textwrap.dedent(good()).replace("class Mine", "class Shared").replace('name = "mine"', "")
    assert "Shared" in text
    plugin_folder.write("mine", text + "\n\nclass One(Shared):\n    name = 'one'\n")
    assert not reasons()
    assert "one" in registry.tokenizers()
    plugin_folder.write("mine", text)
    assert "it has no name" in reasons()["Shared"]
