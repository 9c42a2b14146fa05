"""A published file is used if it is whole and has its checksum, wherever it comes from."""

import hashlib
import pwd
import signal
import socket
import sys
import threading
import time
from _thread import interrupt_main
from pathlib import Path

import huggingface_hub
import pytest
from file_server import Answer, FileServer, serving

from keras_cnns.weights import WeightsError, download
from keras_cnns.weights.download import (
    DownloadError,
    cache_path,
    fetch,
    find_cached,
    is_cached,
    url_of,
)
from keras_cnns.weights.pretrained import PRETRAINED, Checksum, Pretrained

pytest_plugins = ("download_fixtures",)

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
TORCHVISION = PRETRAINED["torchvision/resnet18.IMAGENET1K_V1"]._replace(
    checksum=Checksum("sha256-prefix", SHA256[:8])
)
TIMM = PRETRAINED["timm/resnet18.a1_in1k"]
KERAS = PRETRAINED["keras/resnet50"]._replace(checksum=Checksum("md5", MD5))
HUB_HEADERS = {"X-Linked-Etag": f'"{SHA256}"', "X-Repo-Commit": "0" * 40}
ROWS = [TORCHVISION, TIMM, KERAS]

SILENT = "the server has not answered within 0.5 seconds"
CUT = "peer closed connection without sending complete message body"
CHANGED = "the downloaded file is a different one: its "


def redirect(url: str) -> Answer:
    return Answer(status=302, headers={"Location": url})


def path_of(row: Pretrained, server: FileServer) -> str:
    return url_of(row).removeprefix(server.url)


def publish(server: FileServer, row: Pretrained, answer: Answer) -> None:
    if row.publisher == "timm":
        answer.headers |= HUB_HEADERS
    server.answers[path_of(row, server)] = answer


def files(caches: Path) -> set[Path]:
    """Return the files of weights, without the files that the hub's cache needs for itself."""
    found = (path for path in caches.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {path for path in found if path.name not in ("main", "CACHEDIR.TAG")}


def cached_at(row: Pretrained, caches: Path) -> Path:
    """Return the path to which a file is downloaded."""
    if row.publisher != "timm":
        return caches / "keras" / "models" / row.file_name
    return caches / f"hub/hub/models--timm--resnet18.a1_in1k/snapshots/{'0' * 40}/model.safetensors"


def store(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(params=ROWS, ids=lambda row: row.publisher)
def row(request: pytest.FixtureRequest) -> Pretrained:
    found: Pretrained = request.param
    return found


def test_a_file_is_downloaded_once(row: Pretrained, server: FileServer, caches: Path) -> None:
    publish(server, row, Answer(CONTENT))
    assert not is_cached(row)
    path = fetch(row)
    assert path == cached_at(row, caches)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert is_cached(row)
    assert set(server.requests) == {path_of(row, server)}
    count = len(server.requests)
    assert fetch(row) == path
    assert len(server.requests) == count
    assert files(caches) == {path, path.resolve()}


def test_the_paths_on_a_mirror_are_the_publishers(server: FileServer) -> None:
    assert [path_of(row, server) for row in ROWS] == [
        "/resnet18-f37072fd.pth",
        "/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        "/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
    ]


@pytest.mark.parametrize(
    ("answer", "reason", "reason_of_hub"),
    [
        (Answer(CONTENT, length=2 * len(CONTENT)), "got only 1280000 out of 2560000", CUT),
        (Answer(CONTENT, chunked=True), "IncompleteRead", CUT),
        (Answer(CONTENT[:-1] + b"?"), CHANGED, CHANGED),
        (Answer(status=404), "404: Not Found", "404 Not Found"),
        (Answer(status=503), "503: Service Unavailable", "503 Service Unavailable"),
        (redirect("file:///etc/passwd"), "file:///etc/passwd", "protocol"),
        (redirect("http://127.0.0.1:1/x"), "Connection refused", "Connection refused"),
        (Answer(CONTENT, seconds_before=30), SILENT, SILENT),
        (Answer(CONTENT, seconds_within=30), "timed out", "timed out"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    answer: Answer,
    reason: str,
    reason_of_hub: str,
    row: Pretrained,
    server: FileServer,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(download, "_STALL_SECONDS", 0.7)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.7)
    # huggingface_hub waits a second before each of five repetitions; this replaces all waiting.
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    publish(server, row, answer)
    start = time.monotonic()
    with pytest.raises(DownloadError) as error:
        fetch(row)
    assert time.monotonic() - start < (15 if row.publisher == "timm" else 5)
    first, *others = str(error.value).splitlines()
    assert first.startswith(f"{row.name} cannot be downloaded from {url_of(row)}: ")
    assert (reason_of_hub if row.publisher == "timm" else reason) in first
    assert f"store the file as {cache_path(row)}." in others[0]
    assert download.MIRRORS[row.publisher][0] in others[1]
    assert not files(caches)
    assert socket.getdefaulttimeout() is None
    assert not is_cached(row)


def test_a_name_that_is_never_resolved_takes_seconds(
    row: Pretrained, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"has not answered within 0\.3 seconds"):
        fetch(row)
    assert time.monotonic() - start < 2


def test_no_network_is_an_error_with_the_path(
    row: Pretrained, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv(download.MIRRORS[row.publisher][0], url)
        with pytest.raises(WeightsError, match="Connection refused"):
            fetch(row)


def test_a_cache_that_cannot_be_written_is_named(caches: Path) -> None:
    caches.write_text("x")  # nobody can create anything below a file, not even root
    with pytest.raises(DownloadError) as caught:
        fetch(KERAS)
    assert f"Not a directory: '{caches}/keras" in str(caught.value)


def test_redirects_are_followed(row: Pretrained, server: FileServer) -> None:
    with serving() as storage:
        storage.answers["/blob?signature=1"] = Answer(CONTENT)
        publish(server, row, redirect(f"{storage.url}/blob?signature=1"))
        assert fetch(row).read_bytes() == CONTENT


def test_the_hub_must_announce_the_digest(server: FileServer, caches: Path) -> None:
    server.answers[path_of(TIMM, server)] = Answer(CONTENT)
    with pytest.raises(DownloadError, match="announces no SHA-256 in the header"):
        fetch(TIMM)
    assert not files(caches)


@pytest.mark.parametrize("location", ["http://example.org/x", "ftp://example.org/x"])
def test_a_redirect_may_not_drop_tls(location: str) -> None:
    download._check_encryption("https://example.org/x", "https://example.com/y")
    with pytest.raises(ValueError, match=f"redirects to {location}, without TLS"):
        download._check_encryption("https://example.org/x", location)


def test_the_hub_resumes_a_download(server: FileServer) -> None:
    """The first answer is cut; huggingface_hub requests the file again."""
    publish(server, TIMM, Answer(CONTENT, chunked=True))
    threading.Timer(0.5, publish, (server, TIMM, Answer(CONTENT))).start()
    assert fetch(TIMM).read_bytes() == CONTENT


def test_the_progress_is_shown_on_standard_error(
    row: Pretrained,
    server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(server, row, Answer(CONTENT))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(row)
    output = capsys.readouterr()
    assert not output.out
    assert "1280000/1280000" in output.err or "1.28M/1.28M" in output.err


def test_the_hub_is_an_extra(
    server: FileServer, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'keras-cnns\[hub\]'") as error:
        fetch(TIMM)
    assert f"store the file as {cache_path(TIMM)}" in str(error.value)
    publish(server, KERAS, Answer(CONTENT))
    assert fetch(KERAS).read_bytes() == CONTENT


@pytest.mark.parametrize("value", ["1", "true", "ON", "yes"])
def test_offline_nothing_is_requested(
    value: str, row: Pretrained, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, row, Answer(CONTENT))
    monkeypatch.setenv(download.OFFLINE, value)
    with pytest.raises(DownloadError, match="KERAS_CNNS_OFFLINE disables downloads"):
        fetch(row)
    assert not server.requests
    store(cache_path(row), CONTENT)
    assert fetch(row) == cache_path(row)


def test_the_hubs_own_switch_concerns_the_hub(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE disables downloads"):
        fetch(TIMM)
    publish(server, KERAS, Answer(CONTENT))
    assert fetch(KERAS).read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT[:1000], CONTENT[:-1] + b"?", b""])
def test_a_changed_file_in_the_cache_is_replaced(
    damaged: bytes,
    row: Pretrained,
    server: FileServer,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish(server, row, Answer(CONTENT))
    path = fetch(row)
    path.write_bytes(damaged)
    assert fetch(row) == path
    assert path.read_bytes() == CONTENT
    assert files(caches) == {path, path.resolve()}
    assert f"{path} is not used: its " in caplog.text

    path.write_bytes(damaged)
    monkeypatch.setenv(download.OFFLINE, "1")
    with pytest.raises(DownloadError, match=r"is not used: its (SHA-256|MD5) is"):
        fetch(row)


def test_a_file_that_was_stored_by_hand_is_used(
    row: Pretrained, server: FileServer, caches: Path
) -> None:
    store(cache_path(row), CONTENT)
    assert fetch(row) == cache_path(row)
    assert not server.requests


def test_without_a_home_directory_no_cache_is_found(
    row: Pretrained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_user(_: int) -> None:
        raise KeyError

    for name in ("HOME", "KERAS_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    monkeypatch.chdir(tmp_path)
    assert find_cached(row) is None


def test_the_cache_of_torch_is_read(server: FileServer, caches: Path) -> None:
    path = store(caches / "torch/hub/checkpoints/resnet18-f37072fd.pth", CONTENT)
    assert fetch(TORCHVISION) == path
    path.write_bytes(b"partial")
    publish(server, TORCHVISION, Answer(CONTENT))
    assert fetch(TORCHVISION) == cache_path(TORCHVISION)
    assert path.read_bytes() == b"partial"


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"?"])
def test_the_cache_of_the_hub_is_read(content: bytes, server: FileServer, caches: Path) -> None:
    repository = caches / "hub/hub/models--timm--resnet18.a1_in1k"
    store(repository / "refs/main", b"abc123")
    blob = store(repository / "blobs" / SHA256, content)
    snapshot = repository / "snapshots/abc123/model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(blob)
    publish(server, TIMM, Answer(CONTENT))
    assert fetch(TIMM) == (snapshot if content == CONTENT else cached_at(TIMM, caches))


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"?"])
def test_the_digest_of_the_hub_is_the_name_of_the_first_link(
    content: bytes, server: FileServer, caches: Path
) -> None:
    """In newer caches a blob is itself a link, to a file with another hash as its name."""
    shared = store(caches / "hub/hub/blobs/ab" / ("ab" * 32), content)
    repository = caches / "hub/hub/models--timm--resnet18.a1_in1k"
    store(repository / "refs/main", b"abc123")
    (repository / "blobs").mkdir()
    (repository / "blobs" / SHA256).symlink_to(shared)
    snapshot = repository / "snapshots/abc123/model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(repository / "blobs" / SHA256)
    publish(server, TIMM, Answer(CONTENT))
    assert fetch(TIMM) == (snapshot if content == CONTENT else cached_at(TIMM, caches))
    assert fetch(TIMM).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"?"])
def test_a_file_of_an_earlier_version_is_verified(
    content: bytes, server: FileServer, caches: Path
) -> None:
    """Earlier versions stored timm's files in Keras' cache, and their SHA-256 beside them."""
    path = store(cache_path(TIMM), content)
    store(path.with_name(f"{path.name}.sha256"), f"{SHA256}\n".encode())
    publish(server, TIMM, Answer(CONTENT))
    assert fetch(TIMM) == (path if content == CONTENT else cached_at(TIMM, caches))


def test_an_interruption_leaves_nothing(row: Pretrained, server: FileServer, caches: Path) -> None:
    publish(server, row, Answer(CONTENT, seconds_within=1))
    is_over = threading.Event()

    def interrupt() -> None:
        # The hub's library also creates other files, to see whether links are supported.
        while not {path.suffix for path in files(caches)} & {".h5", ".incomplete", ".pth"}:
            if is_over.wait(0.01):
                return
        # As a signal does, but when the read that is in progress has returned. A real signal that
        # came too late would end this process.
        if not is_over.wait(0.3):
            interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(row)
    finally:
        is_over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert not files(caches)
    assert not is_cached(row)


@pytest.mark.parametrize("row", [TORCHVISION, TIMM], ids=lambda row: row.publisher)
def test_a_proxy_is_used(
    row: Pretrained, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for the whole URL."""
    monkeypatch.setenv(download.MIRRORS[row.publisher][0], "http://download.invalid/models")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.answers[url_of(row)] = Answer(CONTENT, headers=HUB_HEADERS)
    assert fetch(row).read_bytes() == CONTENT
