"""Laws of fits on many rows: a file gives what an array gives, a sample is on record, memory is bounded."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sidbench import registry
from sidbench.errors import UsageError
from sidbench.kit import residual, sampling
from sidbench.kit.streamed import Residuals
from sidbench.report import drawing

Floats = NDArray[np.float32]


def mixture(n: int, d: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    top = rng.normal(size=(20, d))
    centers = top[rng.integers(20, size=150)] + 0.6 * rng.normal(size=(150, d))
    return np.asarray(centers[rng.integers(150, size=n)] + 0.3 * rng.normal(size=(n, d)), dtype=np.float32)


def mapped(x: Floats, folder: Path) -> Any:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def made(name: str, **params: Any) -> Any:
    few = {"levels": 3, "codebook_size": 16, "iters": 6, "device": "cpu"}
    return registry.find("tokenizer", name)(**{**few, **params})


@pytest.mark.parametrize(
    ("name", "params", "shape"),
    [
        ("rq-kmeans", {}, (3000, 12)),
        ("rq-kmeans", {"normalize_residuals": True, "starts": 2}, (3000, 12)),
        ("rq-kmeans", {"minibatch": 256}, (3000, 12)),
        ("rq-kmeans", {"beam": 3}, (1500, 340)),  # so wide that k-means begins on a sketch
        ("rq-kmeans-balanced", {}, (1000, 12)),
        ("rq-kmeans-balanced", {"solver": "sinkhorn", "largest": 1.2}, (1000, 12)),
    ],
)
def test_a_mapped_file_gives_what_an_array_gives_to_the_bit(
    name: str, params: dict[str, Any], shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "COPIED", 0)
    monkeypatch.setattr("sidbench.kit.streamed.PIECE", 5000)  # some pieces of each
    x = mixture(*shape) * np.float32(1e15)  # codes are found in other units than the rows'
    rows = mapped(x, tmp_path)
    assert sampling.on_disk(rows)
    assert not sampling.on_disk(x)
    array, file = made(name, **params), made(name, **params)
    np.testing.assert_array_equal(array.fit_encode(x), file.fit_encode(rows))
    for one, other in zip(array.codebooks_, file.codebooks_, strict=True):
        np.testing.assert_array_equal(one, other)


def test_balanced_fits_on_more_rows_than_a_problem_holds_are_streamed_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "COPIED", 0)
    monkeypatch.setattr("sidbench.kit.balanced.HELD", 1 << 12)
    x = mixture(3000, 8)
    array, file = (made("rq-kmeans-balanced", levels=2) for _ in range(2))
    np.testing.assert_array_equal(array.fit_encode(x), file.fit_encode(mapped(x, tmp_path)))
    assert array.facts() == file.facts()


def test_residuals_are_those_of_an_array(tmp_path: Path) -> None:
    x = mixture(500, 7)
    books = made("rq-kmeans").fit(x).codebooks_
    left = Residuals(mapped(x, tmp_path), np.zeros(7, dtype=np.float32))
    held = x.copy()
    for book in books:
        codes = residual.encode(held, [book])[:, 0]
        held -= book[codes]
        left.subtract(book, codes)
        some = np.array([3, 499, 3, 0])
        np.testing.assert_array_equal(left[10:90], held[10:90])
        np.testing.assert_array_equal(left[some], held[some])
        np.testing.assert_array_equal(left[7], held[7])
    left *= np.float32(4)
    np.testing.assert_array_equal(left[:], 4 * held)
    left /= np.float32(4)
    np.testing.assert_array_equal(left[:], held)


def test_equal_rows_of_a_file_are_codewords_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "COPIED", 0)
    x = np.repeat(mixture(9, 5), 40, axis=0)
    t = made("rq-kmeans").fit(mapped(x, tmp_path))
    np.testing.assert_allclose(t.reconstruct(t.encode(x)), x, rtol=1e-5)


@pytest.mark.parametrize("name", ["rq-kmeans", "rq-kmeans-balanced"])
def test_a_sample_is_recorded_and_names_the_run_only_where_it_is_chosen(name: str) -> None:
    x = mixture(4000, 8)
    whole, all_of_them, some = made(name), made(name, sample=0), made(name, sample=800)
    assert "sample" not in whole.deciding()
    assert all_of_them.deciding()["sample"] == 0
    assert some.deciding()["sample"] == 800
    np.testing.assert_array_equal(whole.fit_encode(x), all_of_them.fit_encode(x))
    assert "sampled" not in whole.facts()
    some.fit(x)
    told = some.facts()["sampled"]
    assert (told["rows"], told["seen"]) == (4000, 800)
    every = float(np.square(x - some.reconstruct(some.encode(x))).sum() / np.square(x - x.mean(axis=0)).sum())
    assert told["error_all"] == pytest.approx(every, rel=1e-3)  # as all of so few rows are looked at
    assert told["error_seen"] < told["error_all"]  # what a sample flatters itself by
    np.testing.assert_array_equal(
        some.encode(x), made(name, sample=800).fit(x).encode(x)
    )  # one seed, one sample


def test_many_rows_are_sampled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "AUTO", 1000)
    x = mixture(5000, 6)
    assert made("rq-kmeans", codebook_size=3).fit(x).facts()["sampled"]["seen"] == 1000
    assert made("rq-kmeans").fit(x).facts()["sampled"]["seen"] == 16 * 256  # so many a code
    assert "sampled" not in made("rq-kmeans", minibatch=500).fit(x).facts()  # which is for all rows


@pytest.mark.parametrize("solver", ["fast", "sinkhorn"])
def test_all_items_are_placed_evenly_around_codewords_of_a_sample(solver: str) -> None:
    x = mixture(3001, 8)
    one, other = (made("rq-kmeans-balanced", sample=600, solver=solver) for _ in range(2))
    codes = one.fit_encode(x)
    for level in range(3):
        counts = np.bincount(codes[:, level], minlength=16)
        assert (counts.min(), counts.max()) == (187, 188)
    assert one.facts()["bounds"] == [[187, 188]] * 3
    for book, same in zip(one.codebooks_, other.fit(x).codebooks_, strict=True):
        np.testing.assert_array_equal(book, same)


def test_a_solver_that_cannot_place_others_takes_no_sample() -> None:
    with pytest.raises(UsageError, match="sample = 0"):
        made("rq-kmeans-balanced", solver="flow", sample=100)


def test_a_network_trains_on_as_many_rows_as_it_is_given(tmp_path: Path) -> None:
    x = mixture(3000, 12)
    few = {"levels": 2, "codebook_size": 16, "epochs": 3, "hidden": (16,), "latent": 8, "device": "cpu"}
    vae = registry.find("tokenizer", "rq-vae")
    whole, some = vae(**few).fit(x), vae(**few, train_sample=1024).fit(mapped(x, tmp_path))
    assert "train_sample" not in whole.deciding()
    assert "sampled" not in whole.facts()
    told = some.facts()["sampled"]
    assert (told["rows"], told["seen"]) == (3000, 1024)
    assert some.facts()["steps"] == 3
    assert 0 < told["error_seen"] < 1
    assert 0 < told["error_all"] < 1


CHILD = """
import json, sys, threading, time
import numpy as np
from sidbench import registry
from sidbench.kit import sampling
sampling.COPIED = 0
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) * 1024
most = [0]
def look():
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.005)
threading.Thread(target=look, daemon=True).start()
x = np.load(sys.argv[1], mmap_mode="r")
for name, own in json.loads(sys.argv[2]):
    params = {"levels": 2, "codebook_size": 32, "device": "cpu", **own}
    make = registry.find("tokenizer", name)
    make(**params).fit(np.array(x[:3000]))  # libraries, pools of threads
    before = most[0] = anonymous()
    make(**params).fit(x)
    print(name, own, (most[0] - before) / x.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_while_a_mapped_file_is_fitted(tmp_path: Path) -> None:
    fits = [
        ("rq-kmeans", {"sample": 5000, "iters": 2}),
        ("rq-kmeans", {"minibatch": 4096, "iters": 1}),
        ("rq-kmeans", {"sample": 0, "iters": 2}),
        ("rq-kmeans-balanced", {"sample": 5000, "iters": 2}),
        ("rq-vae", {"epochs": 1, "hidden": [16], "latent": 8, "batch_size": 4096, "sample": 4096}),
    ]
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(250_000, 128))
    part = mixture(25_000, 128)
    for at in range(0, len(x), len(part)):
        x[at : at + len(part)] = part + np.float32(1e-3 * at / len(x))
    x.flush()
    command = [sys.executable, "-c", CHILD, str(tmp_path / "x.npy"), json.dumps(fits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert float(line.split()[-1]) < 0.5, line


def test_the_page_and_the_picture_show_the_measured_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    bench = importlib.import_module("bench_scale")
    published = bench.ROOT / "results" / "published"
    data = json.loads((published / "scale.json").read_text())
    assert f"<!-- measured -->\n{bench.table(data)}\n<!-- /measured -->" in bench.PAGE.read_text()
    assert drawing.check_file((published / "scale.svg").read_text(), bench.picture(data)) is None
    assert data["grows"] == bench.slopes(data["measured"])
