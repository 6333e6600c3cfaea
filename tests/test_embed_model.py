"""Vectors by a language model: a tiny one built on the spot; shards, interruptions, processes, errors."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sidbench import embed
from sidbench.embed import model
from sidbench.errors import DataError, UsageError

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs pip install 'sidbench[embed]'"
)
# Its own imports, and those of what it imports, warn of what they will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = ["red", "blue", "green", "tape", "glue", "saw", "nail", "box", "of", "ten"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with random weights, as such folders are laid out."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 16, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    steps = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": n, "path": p, "type": f"sentence_transformers.models.{t}"}
                for i, (n, p, t) in enumerate(steps)
            ]
        )
    )
    return folder


def some_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(count)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "SHARD", 16)
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))


@needs_extra
def test_rows_are_those_of_the_model_itself(tiny: Path, tmp_path: Path) -> None:
    """Sorting, shards and batches leave each text its own vector; equal texts share one."""
    texts = [*some_texts(40), "", "red tape", "  ", "red tape "]
    x = model.encode(pa.array(texts, pa.large_string()), model.find(str(tiny)), tmp_path / "w")
    alone = model.load(model.find(str(tiny)), "cpu").encode([t.strip() for t in texts], batch_size=1)
    some = [i for i, t in enumerate(texts) if t.strip()]
    np.testing.assert_allclose(x[some], alone[some], atol=1e-5)
    assert not x[[40, 42]].any()
    assert (x[41] == x[43]).all()


@needs_extra
def test_an_interruption_changes_no_byte(tiny: Path, tmp_path: Path) -> None:
    """Whatever shards are there already, the rest joins them to the bytes of one go."""
    texts, encoder = pa.array(some_texts(60), pa.large_string()), model.find(str(tiny), batch=4)
    whole = model.encode(texts, encoder, tmp_path / "a")
    model.encode(texts, encoder, tmp_path / "b")
    for i in (0, 2):
        model.shard_file(tmp_path / "b", i).unlink()
    untouched = model.shard_file(tmp_path / "b", 1).stat().st_mtime_ns
    assert model.encode(texts, encoder, tmp_path / "b").tobytes() == whole.tobytes()
    assert model.shard_file(tmp_path / "b", 1).stat().st_mtime_ns == untouched


#: A program with a stand-in for the model, slow enough to be killed; what it makes of a text is the text's.
PROGRAM = """
import sys, time, zlib
from pathlib import Path
import numpy as np, pyarrow as pa
from sidbench.embed import model

class StandIn:
    def encode(self, texts, **how):
        time.sleep(0.02)
        return np.array([[zlib.crc32(t.encode()), len(t)] for t in texts], np.float32)

model.load = lambda encoder, place, threads=0: StandIn()
model.SHARD = 16
if __name__ == "__main__":
    work, out, processes = sys.argv[1:]
    texts = pa.array([f"text {i % 7 * 'x'} {i}" for i in range(400)], pa.large_string())
    encoder = model.Encoder(Path("nowhere"), "stand-in", batch=4)
    np.save(out, model.encode(texts, encoder, Path(work), model.Machines("cpu", int(processes))))
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_killed_command_goes_on(tmp_path: Path, processes: str) -> None:
    """kill -9 in the middle; the same command ends with the bytes of an uninterrupted one, of one process."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def command(work: str, count: str) -> list[str]:
        return [
            sys.executable,
            str(tmp_path / "program.py"),
            str(tmp_path / work),
            f"{tmp_path / work}.npy",
            count,
        ]

    with subprocess.Popen(command("a", processes)) as process:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "a").glob("shard-*.npy"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "a.npy").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").glob("shard-*.npy")}
    assert len(kept) < 25
    subprocess.run(command("a", processes), check=True)
    subprocess.run(command("b", "1"), check=True)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())


@needs_extra
def test_a_model_is_recorded_by_its_files(tiny: Path, tmp_path: Path) -> None:
    import shutil

    facts = model.find(str(tiny)).facts()
    assert facts["model"] == "tiny"
    assert facts["pooling"] == "mean_tokens"
    other = shutil.copytree(tiny, tmp_path / "other")
    assert model.find(str(other)).facts()["model_files"] == facts["model_files"]
    (other / "vocab.txt").write_text("[PAD]")
    assert model.find(str(other)).facts()["model_files"] != facts["model_files"]


@needs_extra
def test_vectors_for_takes_a_folder_with_a_model(tiny: Path) -> None:
    texts = some_texts(5)
    x, facts = embed.vectors_for(str(tiny), texts=texts, items=5, where="here")
    again, _ = embed.vectors_for(str(tiny), texts=texts, items=5, where="here")
    assert (x == again).all()
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    assert facts["dim"] == 16


@needs_extra
def test_what_is_no_model_is_said(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="holds no model"):
        model.find(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded"):
        model.load(model.find(str(tmp_path)), "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sidbench\[embed\]'"):
        model.find(str(tiny))
