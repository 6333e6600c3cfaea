"""Downloads from a server on this machine: resumed, corrupted, refused, shared, ever the same."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sidbench import download, progress
from sidbench.commands import loading
from sidbench.download import Remote, check_content, downloads, fingerprint, obtain
from sidbench.errors import DataError

CONTENT = gzip.compress(os.urandom(300_000), mtime=0)


@dataclass
class Site:
    """A server whose manners a test chooses, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"one"'
    last_modified: str = ""
    ranges: bool = True
    #: Bytes after which the connection of each request is cut; empty: no more cuts.
    cuts: list[int] = field(default_factory=list)
    #: Statuses that are answered first.
    statuses: list[int] = field(default_factory=list)
    claimed: int | None = None
    chunked: bool = False
    moved: bool = False
    retry_after: str = ""
    asked: list[str] = field(default_factory=list)
    hold: threading.Event | None = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(self.headers.get("Range", ""))
        if site.hold is not None:
            site.hold.wait(10)
        if site.statuses:
            self.send_response(site.statuses.pop(0))
            if site.retry_after:
                self.send_header("Retry-After", site.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if site.moved and self.path == "/file.gz":
            self.send_response(302)
            self.send_header("Location", "/elsewhere.gz")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start = site.content, 0
        named = self.headers.get("Range")
        same = self.headers.get("If-Range") in (site.etag, site.last_modified)
        if named and site.ranges and same:
            match = re.fullmatch(r"bytes=(\d+)-", named)
            assert match
            start = int(match[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.last_modified:
            self.send_header("Last-Modified", site.last_modified)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(site.claimed or len(body)))
        self.end_headers()
        cut = bool(site.cuts)
        if cut:
            body = body[: site.cuts.pop(0)]
            self.close_connection = True
        if site.chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            if not cut:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server of one's own, a cache of one's own, no pauses and no proxy in between."""
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    found = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"site": found}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/file.gz"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def remote(site: Site, name: str = "file.gz") -> Remote:
    return Remote(name, site.url, "nowhere but here", also=("file",))


def test_a_file_is_fetched_once_and_noted(site: Site) -> None:
    path = obtain(remote(site))
    assert path == downloads() / "file.gz"
    assert path.read_bytes() == CONTENT
    assert obtain(remote(site)) == path
    assert len(site.asked) == 1
    said = json.loads(path.with_name("file.gz.seen.json").read_text())
    assert said["sha256"] == hashlib.sha256(CONTENT).hexdigest() == fingerprint(path)
    assert said["bytes"] == len(CONTENT)
    assert said["url"] == site.url
    assert not list(downloads().glob("*.part*"))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("by", ["etag", "date"])
def test_a_cut_download_goes_on_where_it_stopped(site: Site, by: str, chunked: bool) -> None:
    if by == "date":
        site.etag, site.last_modified = "", "Wed, 21 Oct 2015 07:28:00 GMT"
    site.chunked = chunked
    site.cuts = [100_000, 50_000]
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-", "bytes=150000-"]


def test_a_stream_cut_behind_its_last_byte_is_whole(site: Site) -> None:
    site.chunked, site.cuts = True, [len(CONTENT)]
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert site.asked == ["", f"bytes={len(CONTENT)}-"]


def test_the_next_process_goes_on_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    site.cuts = [100_000]
    site.statuses = []

    def cut(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(time, "sleep", cut)
        with pytest.raises(KeyboardInterrupt):
            obtain(remote(site))
    assert (downloads() / "file.gz.part").stat().st_size == 100_000
    assert not (downloads() / "file.gz").exists()
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=100000-"


@pytest.mark.parametrize("why", ["no range", "no validator", "weak etag"])
def test_what_cannot_be_joined_starts_over(site: Site, why: str) -> None:
    site.cuts = [100_000]
    site.ranges = why != "no range"
    site.etag = {"no validator": "", "weak etag": 'W/"one"'}.get(why, site.etag)
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert len(site.asked) == 2
    assert site.asked[1] == ("bytes=100000-" if why == "no range" else "")


def test_another_content_meanwhile_starts_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = gzip.compress(os.urandom(200_000), mtime=0)
    site.cuts = [100_000]

    def replaced(seconds: float) -> None:
        site.content, site.etag = other, '"two"'

    monkeypatch.setattr(time, "sleep", replaced)
    assert obtain(remote(site)).read_bytes() == other


def test_a_range_that_the_server_does_not_have_starts_over(site: Site) -> None:
    folder = downloads()
    folder.mkdir(parents=True)
    (folder / "file.gz.part").write_bytes(CONTENT + b"more")
    note = {"url": site.url, "etag": site.etag, "last_modified": "", "total": len(CONTENT)}
    (folder / "file.gz.part.json").write_text(json.dumps(note))
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_a_wrong_size_is_given_up_with_the_way_by_hand(site: Site) -> None:
    site.claimed, site.ranges = len(CONTENT) + 7, False
    with pytest.raises(DataError) as e:
        obtain(remote(site))
    said = str(e.value)
    assert site.url in said
    assert str(downloads() / "file.gz") in said
    assert f"{len(CONTENT):,} of {len(CONTENT) + 7:,} bytes" in said
    assert "(or file); nowhere but here" in said
    # The first attempt brought new bytes; those after it did not.
    assert len(site.asked) == 1 + download.ATTEMPTS


def test_a_passing_failure_is_asked_again(site: Site) -> None:
    site.statuses = [503, 500, 429]
    assert obtain(remote(site)).read_bytes() == CONTENT


def test_a_server_says_how_long_to_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    site.statuses, site.retry_after = [503, 503], "7"
    obtain(remote(site))
    assert slept == [7.0, 7.0]


def test_failures_that_stay_are_given_up(site: Site) -> None:
    site.statuses = [503] * 50
    with pytest.raises(DataError, match=f"503.*{download.ATTEMPTS} times in a row"):
        obtain(remote(site))
    assert len(site.asked) == download.ATTEMPTS


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_final_answer_is_asked_once(site: Site, status: int) -> None:
    site.statuses = [status] * 9
    with pytest.raises(DataError, match=str(status)):
        obtain(remote(site))
    assert len(site.asked) == 1


def test_redirects_are_followed(site: Site) -> None:
    site.moved = True
    assert obtain(remote(site)).read_bytes() == CONTENT


def test_a_page_in_place_of_the_file_is_none(site: Site) -> None:
    site.content = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(DataError, match=r"no gz file.*DOCTYPE"):
        obtain(remote(site))
    assert not (downloads() / "file.gz").exists()


def test_no_network_is_said_with_the_way_by_hand(site: Site) -> None:
    nowhere = Remote("file.gz", "http://127.0.0.1:9/file.gz", "nowhere")
    with pytest.raises(DataError, match="by hand at") as e:
        obtain(nowhere)
    assert str(downloads() / "file.gz") in str(e.value)


def test_a_proxy_is_asked_where_one_is_set(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.rpartition("/")[0])
    monkeypatch.setenv("no_proxy", "")
    elsewhere = Remote("file.gz", "http://files.invalid/file.gz", "nowhere")
    assert obtain(elsewhere).read_bytes() == CONTENT


def test_a_changed_file_is_an_error_that_names_both(site: Site) -> None:
    path = obtain(remote(site))
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError) as e:
        obtain(remote(site))
    assert hashlib.sha256(CONTENT).hexdigest() in str(e.value)
    assert hashlib.sha256(CONTENT[:-1] + b"x").hexdigest() in str(e.value)
    # Deleted as the message says: fetched again, and compared with what was seen first.
    path.unlink()
    assert obtain(remote(site)).read_bytes() == CONTENT
    path.unlink()
    site.content = gzip.compress(b"another", mtime=0)
    with pytest.raises(DataError, match="is not what it was"):
        obtain(remote(site))
    (downloads() / "file.gz.seen.json").unlink()
    assert obtain(remote(site)).read_bytes() == site.content


def test_a_touched_file_is_the_same_file(site: Site) -> None:
    path = obtain(remote(site))
    os.utime(path, (1, 1))
    assert obtain(remote(site)) == path
    assert fingerprint(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_torn_note_is_an_error(site: Site) -> None:
    path = obtain(remote(site))
    path.with_name("file.gz.seen.json").write_text('{"sha256": ')
    with pytest.raises(DataError, match="delete it to record"):
        obtain(remote(site))


@pytest.mark.parametrize("name", ["file.gz", "file"])
def test_a_file_by_hand_is_taken_and_noted(site: Site, name: str) -> None:
    downloads().mkdir(parents=True)
    (downloads() / name).write_bytes(b"by hand")
    path = obtain(remote(site))
    assert path.name == name
    assert site.asked == []
    assert check_content(path).sha256 == hashlib.sha256(b"by hand").hexdigest()
    path.write_bytes(b"by foot")
    with pytest.raises(DataError, match="is not what it was"):
        obtain(remote(site))


def test_a_folder_of_ones_own_is_read_and_left_alone(site: Site, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(DataError, match=r"holds no file.gz \(or file\)"):
        obtain(remote(site), own)
    (own / "file").write_bytes(b"mine")
    assert obtain(remote(site), own) == own / "file"
    assert [p.name for p in own.iterdir()] == ["file"]
    assert site.asked == []


def test_what_has_no_address_says_where_it_is_published(site: Site) -> None:
    with pytest.raises(DataError, match=r"its site wants a form.*by hand at"):
        obtain(Remote("form.zip", "", "its site wants a form to be filled in"))


def test_two_at_once_fetch_once(site: Site) -> None:
    site.hold = threading.Event()
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(obtain(remote(site)))) for _ in range(2)]
    for t in both:
        t.start()
    site.hold.set()
    for t in both:
        t.join()
    assert len(found) == 2
    assert len(site.asked) == 1


def test_one_waits_while_another_process_fetches(site: Site) -> None:
    """Locks of processes are of open files: one that is held here counts as another process's."""
    downloads().mkdir(parents=True)
    waits, done = threading.Event(), threading.Event()

    def listen(stage: str, *_: object) -> None:
        if stage.startswith("wait for another process"):
            waits.set()

    def fetch() -> None:
        with progress.listening(listen):
            obtain(remote(site))
        done.set()

    with (downloads() / "file.gz.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=fetch)
        thread.start()
        assert waits.wait(10)
        assert site.asked == []
        # The other one has finished meanwhile: its file is taken.
        (downloads() / "file.gz").write_bytes(CONTENT)
    thread.join(10)
    assert done.is_set()
    assert site.asked == []


def test_a_full_disk_is_said_and_what_came_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(answer: object, out: Any, part: Any, name: str) -> None:
        out.write(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(download, "_copy", no_room)
        with pytest.raises(DataError, match=r"disk .* is full.*SIDBENCH_CACHE"):
            obtain(remote(site))
    assert obtain(remote(site)).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-"]


def test_too_little_room_is_said_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=f"needs {len(CONTENT):,} bytes more, 10 are free"):
        obtain(remote(site))


def test_a_cache_that_cannot_be_written_is_said(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("SIDBENCH_CACHE", str(tmp_path / "in the way"))
    with pytest.raises(DataError, match="set SIDBENCH_CACHE to a folder that can be"):
        obtain(remote(site))


def test_progress_says_how_far_and_how_fast(site: Site) -> None:
    heard: list[tuple[float, float, dict[str, float]]] = []

    def listen(stage: str, done: float, total: float, numbers: dict[str, float]) -> None:
        if stage == "fetch file.gz":
            heard.append((done, total, numbers))

    with progress.listening(listen):
        obtain(remote(site))
    assert heard[-1][:2] == (len(CONTENT), len(CONTENT))
    assert all(a[0] < b[0] for a, b in itertools.pairwise(heard))
    assert heard[-1][2].keys() == {"bytes/s", "seconds left"}
    assert heard[-1][2]["seconds left"] == 0


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({}, "fetch x: 25%"),
        ({"bytes/s": 2e6}, "fetch x: 5 MB, 2.0 MB/s"),
        ({"bytes/s": 2e6, "seconds left": 75.2}, "fetch x: 5 of 20 MB, 2.0 MB/s, 1:15 left"),
        ({"bytes/s": 2e6, "seconds left": 7325.0}, "fetch x: 5 of 20 MB, 2.0 MB/s, 2:02:05 left"),
    ],
)
def test_a_person_reads_how_fast_and_how_long_still(numbers: dict[str, float], text: str) -> None:
    assert loading.said("fetch x", 5e6, 2e7, numbers) == text


def test_what_is_reported_while_loading_is_shown(site: Site) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with loading.loading(console, "loading…"):
        obtain(remote(site))
    assert isinstance(console.file, io.StringIO)
    assert "loading…" in console.file.getvalue()
