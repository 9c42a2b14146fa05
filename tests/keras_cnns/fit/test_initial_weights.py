"""Which weights a guided training starts from."""

import hashlib

import pytest
from file_server import Answer, FileServer

from keras_cnns.fit.initial_weights import find_initial_weights, find_published_weights
from keras_cnns.weights.download import OFFLINE, DownloadError, cache_path, url_of
from keras_cnns.weights.pretrained import PRETRAINED, Checksum, Pretrained

pytest_plugins = ("download_fixtures",)

CONTENT = b"weights" * 100
CHECKSUM = Checksum("sha256-prefix", hashlib.sha256(CONTENT).hexdigest()[:8])
RESNET50, RESNET18 = ROWS = tuple(
    PRETRAINED[name]._replace(checksum=CHECKSUM)
    for name in ("torchvision/resnet50.IMAGENET1K_V2", "torchvision/resnet18.IMAGENET1K_V1")
)


def publish(server: FileServer, row: Pretrained, answer: Answer | None = None) -> None:
    server.answers[url_of(row).removeprefix(server.url)] = answer or Answer(CONTENT)


def store(row: Pretrained, content: bytes = CONTENT) -> None:
    cache_path(row).parent.mkdir(parents=True, exist_ok=True)
    cache_path(row).write_bytes(content)


def test_published_names_bring_their_network_and_normalisation(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_initial_weights("") is None
    assert find_initial_weights("none") is None
    monkeypatch.setitem(PRETRAINED, RESNET50.name, RESNET50)
    with pytest.raises(DownloadError, match="404"):
        find_initial_weights(RESNET50.name)
    publish(server, RESNET50)
    found = find_initial_weights(RESNET50.name)
    assert found is not None
    assert (found.model, len(found.mean), len(found.std)) == ("resnet50", 3, 3)
    assert cache_path(RESNET50).read_bytes() == CONTENT
    with pytest.raises(ValueError, match="imagenet"):
        find_initial_weights("imagenet")


def test_a_published_file_is_recognised_by_its_name() -> None:
    found = find_initial_weights("downloads/googlenet-1378be20.pth")
    assert found is not None
    assert (found.model, found.mean) == ("googlenet_tv", (127.5,) * 3)
    with pytest.raises(ValueError, match=r"give the name of these weights instead, keras/resnet50"):
        find_initial_weights("resnet50_weights_tf_dim_ordering_tf_kernels.h5")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_weights_in_a_cache_are_used_without_a_request(
    offline: str, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE, offline)
    store(RESNET18)
    found, failure = find_published_weights([RESNET18])
    assert found is not None
    assert (found.source, found.model, found.is_present) == (RESNET18.name, "resnet18", True)
    assert (failure, server.requests) == ("", [])


@pytest.mark.parametrize("cached", [None, b"damaged"])
def test_weights_are_downloaded(
    cached: bytes | None, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    if cached is not None:
        store(RESNET18, cached)
    publish(server, RESNET18)
    found, failure = find_published_weights([RESNET18])
    assert found is not None
    assert found.is_present
    assert not failure
    assert cache_path(RESNET18).read_bytes() == CONTENT
    message = f"downloading {RESNET18.name} (45 MiB) from {server.url}/resnet18-f37072fd.pth\n"
    assert capsys.readouterr().err == ("" if cached else message)


@pytest.mark.parametrize(
    ("answer", "offline", "cached", "reason"),
    [
        (None, "", None, "HTTP Error 404: Not Found"),
        (None, "1", None, "KERAS_CNNS_OFFLINE disables downloads"),
        (None, "1", b"damaged", "KERAS_CNNS_OFFLINE disables downloads"),
        (Answer(b"another file"), "", None, "the downloaded file is a different one"),
        (Answer(CONTENT, length=2000), "", b"damaged", ""),
    ],
)
def test_a_failed_download_is_described(
    answer: Answer | None,
    offline: str,
    cached: bytes | None,
    reason: str,
    server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OFFLINE, offline)
    if cached is not None:
        store(RESNET18, cached)
    if answer is not None:
        publish(server, RESNET18, answer)
    found, failure = find_published_weights([RESNET18])
    assert found is None
    begin = (
        f"{RESNET18.name} cannot be downloaded from {server.url}/resnet18-f37072fd.pth: {reason}"
    )
    assert failure.startswith(begin)
    assert failure.endswith(
        f". To use them, store the file as {cache_path(RESNET18)}, or give another file with "
        "--weights."
    )


def test_other_weights_are_used_only_from_a_cache_after_a_failed_download(
    server: FileServer,
) -> None:
    publish(server, RESNET18)
    found, failure = find_published_weights(ROWS)
    assert found is None
    assert RESNET50.name in failure
    assert not any("resnet18" in path for path in server.requests)
    store(RESNET18)
    found, failure = find_published_weights(ROWS)
    assert found is not None
    assert found.model == "resnet18"
    assert RESNET50.name in failure
    assert find_published_weights([]) == (None, "")


@pytest.mark.parametrize("cached", [None, b"damaged", CONTENT])
def test_a_dry_run_downloads_nothing(
    cached: bytes | None, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, RESNET18)
    if cached is not None:
        store(RESNET18, cached)
    found, failure = find_published_weights([RESNET18], download=False)
    assert found is not None
    assert found.is_present == (cached == CONTENT)
    assert (failure, server.requests) == ("", [])
    what = f"the command would download {RESNET18.name} (45 MiB) from {server.url}"
    assert (what in capsys.readouterr().err) == (cached != CONTENT)


def test_a_dry_run_without_a_network_chooses_like_the_command(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    assert find_published_weights([RESNET18], download=False) == find_published_weights([RESNET18])
