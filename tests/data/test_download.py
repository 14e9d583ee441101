from __future__ import annotations

import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest

from genpolicy.data.download import download, recorded_sha256, verify_file
from genpolicy.data.reading import DamagedFileError
from genpolicy.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:no SHA-256 of")

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A local host whose behaviour a test changes; it records what it was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.status = 200
        self.has_ranges = True
        self.cut_at: int | None = None  # bytes of a response after which the connection drops
        self.hang_at: int | None = None  # bytes of a response after which nothing more comes
        self.requests: list[dict[str, str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, servers, *args) -> None:
        self.servers = servers
        super().__init__(*args)

    def do_GET(self) -> None:
        state: Server = self.servers[0]
        state.requests.append({"path": self.path, **dict(self.headers)})
        if state.status != 200 or self.path == "/missing":
            self.send_error(404 if self.path == "/missing" else state.status)
            return
        start = 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, state.etag)
        if wanted and same and state.has_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(state.content):
                self.send_error(416)
                return
        body = state.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            end = len(state.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if state.etag:
            self.send_header("ETag", state.etag)
        self.end_headers()
        for stop in (state.cut_at, state.hang_at):
            if stop is not None and stop < len(body):
                self.wfile.write(body[:stop])
                self.wfile.flush()
                if stop == state.hang_at:
                    time.sleep(2)
                self.close_connection = True
                return
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("GENPOLICY_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[Server] = []
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, servers))
    host.daemon_threads = True
    servers.append(Server(f"http://127.0.0.1:{host.server_address[1]}"))
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield servers[0]
    host.shutdown()
    host.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "data.hdf5"


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_arrives_whole_and_its_hash_is_recorded(server, path):
    with pytest.warns(UserWarning, match=f"no SHA-256 of data.hdf5 is published; .* {SHA256}"):
        assert download([f"{server.url}/file"], path) == path
    assert path.read_bytes() == CONTENT
    assert recorded_sha256(path) == SHA256
    assert names(path) == ["data.hdf5", "data.hdf5.sha256"]
    assert verify_file(path)


def test_the_recorded_hash_is_compared_from_then_on(server, path):
    download([f"{server.url}/file"], path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DamagedFileError, match=f"expected sha256 {SHA256}, is "):
        verify_file(path)
    assert path.exists()


def test_a_file_without_a_known_or_recorded_hash_is_not_compared(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert not verify_file(path)
    assert verify_file(path, sha256=SHA256)


def test_a_broken_connection_is_resumed(server, path):
    server.cut_at = 131_072
    assert download([f"{server.url}/file"], path).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=131072-", "bytes=262144-"]
    assert {r.get("If-Range") for r in server.requests[1:]} == {'"v1"'}


def test_a_download_that_failed_half_way_is_resumed_later(server, path):
    server.cut_at = 196_608
    with pytest.raises(DataError, match=r"could not be fetched .* try again later"):
        download([f"{server.url}/file"], path, n_attempts=1)
    assert names(path) == ["data.hdf5.part", "data.hdf5.part.json"]
    server.cut_at = None
    assert download([f"{server.url}/file"], path).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=196608-"
    assert names(path) == ["data.hdf5", "data.hdf5.sha256"]


def test_a_killed_process_leaves_a_part_that_the_next_resumes(server, path):
    server.hang_at = 131_072
    code = (
        "import sys; from genpolicy.data.download import download;"
        "download([sys.argv[1]], sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/file", str(path)])
    part = path.with_name("data.hdf5.part")
    for _ in range(2000):
        if part.exists() and part.stat().st_size == 131_072:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert not path.exists()
    server.hang_at = None
    assert download([f"{server.url}/file"], path).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=131072-"


@pytest.mark.parametrize("change", ["new version", "other address", "no ranges", "no validator"])
def test_a_part_that_may_be_of_another_file_is_not_continued(server, path, change):
    if change == "no validator":
        server.etag = None
    server.cut_at = 196_608
    with pytest.raises(DataError):
        download([f"{server.url}/file"], path, n_attempts=1)
    server.cut_at = None
    address = "file"
    if change == "new version":
        server.content, server.etag = CONTENT[::-1], '"v2"'
    elif change == "other address":
        address = "elsewhere"
    elif change == "no ranges":
        server.has_ranges = False
    assert download([f"{server.url}/{address}"], path).read_bytes() == server.content


def test_a_known_hash_allows_to_continue_from_a_mirror(server, path):
    server.cut_at = 196_608
    with pytest.raises(DataError):
        download([f"{server.url}/file"], path, sha256=SHA256, n_attempts=1)
    server.cut_at = None
    download([f"{server.url}/mirror"], path, sha256=SHA256)
    assert server.requests[-1]["Range"] == "bytes=196608-"
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server, path):
    path.parent.mkdir()
    path.with_name("data.hdf5.part").write_bytes(CONTENT + b"more")
    assert download([f"{server.url}/file"], path, sha256=SHA256).read_bytes() == CONTENT


def test_the_mirror_is_tried_after_a_404(server, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # with a known hash there is nothing to say
        download([f"{server.url}/missing", f"{server.url}/file"], path, sha256=SHA256)
    assert [r["path"] for r in server.requests] == ["/missing", "/file"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_host_that_refuses_leaves_nothing_behind(server, path, status):
    server.status = status
    url = f"{server.url}/file"
    with pytest.raises(DataError, match=f"HTTP status {status}.* by hand and put it at {path}"):
        download([url], path)
    assert names(path) == []
    assert len(server.requests) == 1


def test_a_host_that_is_down_or_silent_is_reported(server, path):
    server.hang_at = 10
    urls = ["http://127.0.0.1:1/file", f"{server.url}/file"]
    with pytest.raises(DataError) as caught:
        download(urls, path, n_attempts=1, timeout_s=0.2)
    for url in urls:
        assert f"{url}: Connect" in str(caught.value)
    assert not path.exists()


def test_another_content_than_expected_is_not_kept(server, path):
    server.content = CONTENT[::-1]
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DataError, match=f"expected sha256 {SHA256}, received {found}"):
        download([f"{server.url}/file"], path, sha256=SHA256)
    assert not path.exists()
    assert not path.with_name("data.hdf5.part").exists()


def test_a_file_that_is_there_is_replaced_only_by_a_complete_one(server, path):
    path.parent.mkdir()
    path.write_bytes(b"old")
    server.cut_at = 196_608
    with pytest.raises(DataError):
        download([f"{server.url}/file"], path, n_attempts=1)
    assert path.read_bytes() == b"old"
    server.cut_at = None
    download([f"{server.url}/file"], path)
    assert path.read_bytes() == CONTENT


def test_two_downloads_of_one_file_do_not_mix(server, path):
    import fcntl

    path.parent.mkdir()
    with open(path.with_name("data.hdf5.part"), "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="being fetched by another process"):
            download([f"{server.url}/file"], path)
    assert server.requests == []


def test_offline_nothing_is_asked_for(server, path, monkeypatch):
    monkeypatch.setenv("GENPOLICY_OFFLINE", "1")
    url = f"{server.url}/file"
    with pytest.raises(DataError, match=f"GENPOLICY_OFFLINE is set.* download {url} by hand"):
        download([url], path)
    assert server.requests == []
    assert not path.parent.exists()
