"""A published file is used if it is whole and has its checksum, wherever it comes from."""

import hashlib
import io
import socket
import time
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request

import pytest
from file_server import Answer, FileServer, serving

from keras_cnns.weights import WeightsError, download
from keras_cnns.weights.download import DownloadError, cache_path, fetch, is_cached, url_of
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


def path_of(row: Pretrained, server: FileServer) -> str:
    return url_of(row).removeprefix(server.url)


def publish(server: FileServer, row: Pretrained, answer: Answer) -> None:
    if row.publisher == "timm":
        answer.headers |= HUB_HEADERS
    server.answers[path_of(row, server)] = answer


def files(caches: Path) -> set[Path]:
    return {path for path in caches.rglob("*") if path.is_file()}


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
    assert path == cache_path(row) == caches / "keras" / "models" / row.file_name
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert is_cached(row)
    assert fetch(row) == path
    assert server.requests == [path_of(row, server)]
    assert {each for each in files(caches) if each.suffix != ".sha256"} == {path}


def test_the_paths_on_a_mirror_are_the_publishers(server: FileServer) -> None:
    assert [path_of(row, server) for row in ROWS] == [
        "/resnet18-f37072fd.pth",
        "/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        "/resnet50_weights_tf_dim_ordering_tf_kernels.h5",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(CONTENT, length=2 * len(CONTENT)), "the connection ended after 1,280,000 of 2,560"),
        (Answer(CONTENT, chunked=True), "IncompleteRead"),
        (Answer(CONTENT[:-1] + b"?"), "the downloaded file is a different one: its "),
        (Answer(status=404), "the server answers 404 Not Found"),
        (Answer(status=503), "the server answers 503 Service Unavailable"),
        (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "file:///etc/passwd"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/x"}), "Connection refused"),
        (Answer(CONTENT, seconds_before=30), "the server has not answered within 0.5 seconds"),
        (Answer(CONTENT, seconds_within=30), "the server has stopped sending"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    answer: Answer,
    reason: str,
    row: Pretrained,
    server: FileServer,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(download, "_STALL_SECONDS", 0.7)
    publish(server, row, answer)
    start = time.monotonic()
    with pytest.raises(DownloadError) as error:
        fetch(row)
    assert time.monotonic() - start < 5
    first, *others = str(error.value).splitlines()
    assert first.startswith(f"{row.name} cannot be downloaded from {url_of(row)}: ")
    assert reason in first
    assert f"store the file as {cache_path(row)}." in others[0]
    assert download.MIRRORS[row.publisher][0] in others[1]
    assert not files(caches)


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
    assert str(caught.value).startswith(f"cannot create the folder {caches}/keras/models for ")
    assert "Not a directory; set KERAS_HOME to a folder" in str(caught.value)


def test_redirects_are_followed(row: Pretrained, server: FileServer) -> None:
    with serving() as storage:
        storage.answers["/blob?signature=1"] = Answer(CONTENT)
        location = {"Location": f"{storage.url}/blob?signature=1"}
        publish(server, row, Answer(status=302, headers=location))
        assert fetch(row).read_bytes() == CONTENT


def test_the_hub_must_announce_the_digest(server: FileServer, caches: Path) -> None:
    server.answers[path_of(TIMM, server)] = Answer(CONTENT)
    with pytest.raises(DownloadError, match="sends no SHA-256 in the header X-Linked-Etag"):
        fetch(TIMM)
    assert not files(caches)


def test_a_redirect_may_not_drop_tls() -> None:
    redirects, request = download._Redirects({}), Request("https://example.org/x")
    with pytest.raises(URLError, match="without TLS"):
        redirects.redirect_request(
            request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://example.org/x"
        )


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
    assert fetch(TIMM) == (snapshot if content == CONTENT else cache_path(TIMM))


def test_an_interruption_leaves_nothing(
    row: Pretrained, server: FileServer, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, row, Answer(CONTENT))

    def interrupt(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_difference", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(row)
    assert not files(caches)


def test_a_proxy_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked for the whole URL."""
    monkeypatch.setenv("KERAS_CNNS_TORCHVISION_MIRROR", "http://download.invalid/models")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.answers["http://download.invalid/models/resnet18-f37072fd.pth"] = Answer(CONTENT)
    assert fetch(TORCHVISION).read_bytes() == CONTENT
