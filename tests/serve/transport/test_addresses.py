import resource
import socket

import pytest

from keras_cnns_serve.transport.addresses import AddressError, affordable, bind, url


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "http://"),
        ("0.0.0.0", "http://127.0.0.1:"),
        ("::1", "http://[::1]:"),
    ],
)
def test_the_address_is_one_to_type(host: str, address: str) -> None:
    try:
        listener = bind(host, 0)
    except AddressError as error:
        if ":" not in host:
            raise
        pytest.skip(f"this machine has no IPv6: {error}")
    with listener:
        assert url(listener).startswith(address)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1", "Address already in use; --port 0 picks a free port"),
        ("a..b", "'a..b' is not a host"),
        ("203.0.113.1", "cannot listen on 203.0.113.1:"),
    ],
)
def test_an_address_that_cannot_be_had(host: str, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError) as refused:
            bind(host, port)
    assert message in str(refused.value)


def test_both_ports_leave_files_for_models() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (800, before[1]))
        assert affordable(4096) == 300
        assert affordable(299) == 299
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
