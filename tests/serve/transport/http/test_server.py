"""The server on an event loop that it does not own."""

import asyncio
import contextlib
import logging
import re
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import trustme
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from keras_cnns_serve.core.limits import Budget
from keras_cnns_serve.transport.addresses import AddressError, bind
from keras_cnns_serve.transport.http.asgi import App, FastRoute, Reply, Request
from keras_cnns_serve.transport.http.errors import error_reply
from keras_cnns_serve.transport.http.server import HttpServer
from keras_cnns_serve.transport.tls import Tls

T = TypeVar("T")

POST = b"POST /fast?seconds=%s HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
GET = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"


async def wait(request: Request) -> Reply:
    """Answer after the seconds that the request asks for."""
    body = await request.body()
    with request.cancelled_on_disconnect():
        await asyncio.sleep(float(request.query("seconds") or 0))
    return Reply(body)


def create_app(draining: Callable[[], bool] = lambda: False) -> App:
    async def other(request: object) -> PlainTextResponse:
        return PlainTextResponse("other")

    starlette = Starlette(routes=[Route("/slow", other)])
    routes = [FastRoute("POST", re.compile("/fast"), wait, error_reply)]
    return App(routes, starlette, 10**6, Budget(2**30), Counter(), draining=draining)


async def ask(
    address: tuple[str, int], request: bytes = POST % b"0", tls: ssl.SSLContext | None = None
) -> bytes:
    """Return the answer; then close the connection, unless the server has closed it."""
    host = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=host)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    body = await reader.readexactly(int(length[1]))
    if b"connection: close" in head:
        assert await reader.read() == b""
    writer.close()
    return head + body


def test_several_run_on_one_event_loop_and_change_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    access = logging.getLogger("uvicorn.access")
    propagated = access.propagate
    access.propagate = True
    handler = logging.NullHandler()
    access.addHandler(handler)

    async def main() -> None:
        signals = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        tasks = asyncio.all_tasks()
        for _ in range(2):
            async with contextlib.AsyncExitStack() as stack:
                addresses = []
                for _ in range(2):
                    listener = bind("127.0.0.1", 0)
                    addresses.append(listener.getsockname()[:2])
                    await stack.enter_async_context(HttpServer(create_app(), listener, grace=0.5))
                for address in addresses:
                    assert (await ask(address)).endswith(b"body")
                assert signals == [
                    signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)
                ]
            for address in addresses:
                with pytest.raises(ConnectionError):
                    await ask(address)
        assert asyncio.all_tasks() == tasks

    try:
        asyncio.run(asyncio.wait_for(main(), 20))
        assert handler in access.handlers
        assert access.propagate
    finally:
        access.propagate = propagated
        access.removeHandler(handler)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_server_that_cannot_start_raises() -> None:
    async def main() -> None:
        listener = bind("127.0.0.1", 0)
        listener.close()
        with pytest.raises(AddressError, match="Bad file descriptor"):
            async with HttpServer(create_app(), listener):
                pytest.fail("it has started")

    asyncio.run(asyncio.wait_for(main(), 20))


def test_every_answer_is_the_last_on_its_connection_while_draining() -> None:
    draining = False

    async def main() -> None:
        nonlocal draining
        listener = bind("127.0.0.1", 0)
        address = listener.getsockname()[:2]
        requests = (POST % b"0", POST.replace(b"POST", b"PUT") % b"0", GET, b"GET /x" + GET[9:])
        async with HttpServer(create_app(lambda: draining), listener, grace=1) as server:
            for draining in (False, True):
                for request in requests:
                    answer = await ask(address, request)
                    assert answer.count(b"connection: close") == draining
            # One that was accepted before, and one that comes as the server stops:
            reader, writer = await asyncio.open_connection(*address)
            leaving = asyncio.create_task(server.__aexit__(None, None, None))
            await asyncio.sleep(0.15)
            assert (await ask(address)).endswith(b"body")
            writer.write(POST % b"0")
            assert (await reader.read()).endswith(b"body")
            writer.close()
            await leaving

    asyncio.run(asyncio.wait_for(main(), 20))


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve with these options, and give the address."""
    listener = bind("127.0.0.1", 0)
    async with asyncio.timeout(20), HttpServer(create_app(), listener, grace=0.2, **options):
        yield listener.getsockname()[:2]


@pytest.mark.parametrize("sent", [b"", b"GET /slow HTTP/1.1\r\nhost:", POST % b"0"])
def test_a_connection_that_is_idle_ends(sent: bytes) -> None:
    async def main() -> bytes:
        async with serving(timeout=0.2) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            received = await reader.read()
            writer.close()
            return received

    received = asyncio.run(main())
    assert received.partition(b" ")[2][:3] == {0: b"", 25: b"408"}.get(len(sent), b"200")


def test_a_new_connection_takes_the_place_of_the_one_that_waits_longest() -> None:
    async def main() -> None:
        async with serving(max_connections=4) as address:
            connections = [await asyncio.open_connection(*address) for _ in range(4)]
            first, second, third, unused = connections
            for reader, writer in (second, first):  # the order in which they become idle
                writer.write(POST % b"0")
                await reader.readuntil(b"body")
            third[1].write(POST % b"0.5")
            await asyncio.sleep(0.1)
            for idle in (unused, second, first):
                reader, writer = await asyncio.open_connection(*address)
                connections.append((reader, writer))
                writer.write(POST % b"0.5")
                assert await idle[0].read() == b""
            assert (await third[0].readuntil(b"body")).startswith(b"HTTP/1.1 200 ")
            for _, writer in connections:
                writer.close()

    asyncio.run(main())


def test_further_connections_than_can_be_had_get_503(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(max_connections=2) as address:
            slow = [asyncio.create_task(ask(address, POST % b"0.5")) for _ in range(2)]
            await asyncio.sleep(0.1)
            for _ in range(3):
                answer = await ask(address)
                assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"retry-after: 1\r\n" in answer
            for answer in await asyncio.gather(*slow):
                assert answer.endswith(b"body")
            assert (await ask(address)).endswith(b"body")

    asyncio.run(main())
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warnings == 3 * ["refused 127.0.0.1: all 2 connections have a request in progress"]


def test_the_end_with_only_idle_connections_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(POST % b"0")
            await reader.readuntil(b"body")
        writer.close()

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_end_takes_no_longer_than_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """What ends within it is answered, the rest has 503, and no connection is left."""

    async def main() -> None:
        listener = bind("127.0.0.1", 0)
        address = listener.getsockname()[:2]
        async with HttpServer(create_app(), listener, grace=1.5):
            quick = asyncio.create_task(ask(address, POST % b"0.5"))
            slow = asyncio.create_task(ask(address, POST % b"20"))
            half = asyncio.create_task(ask(address, (POST % b"0")[:-1]))
            idle = await asyncio.open_connection(*address)
            unfinished = await asyncio.open_connection(*address)
            unfinished[1].write(POST[:20])
            await asyncio.sleep(0.1)
            started = time.monotonic()
        assert 1 < time.monotonic() - started < 2.5
        assert (await quick).endswith(b"body")
        for cancelled in (slow, half):
            answer = await cancelled
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert b"the server is stopping" in answer
        for reader, writer in (idle, unfinished):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert not any(record.exc_info for record in caplog.records)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("localhost")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    return Tls(folder / "certificate.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def new_uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


def run(main: Coroutine[Any, Any, T], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> T:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


loops = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_uvloop])


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def connected(address: tuple[str, int], sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address)
    connection.setblocking(False)
    connection.send(sent)
    return connection


@loops
def test_connections_in_their_handshake_are_limited(
    tls: Tls, trusting: ssl.SSLContext, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    beginnings = (b"", b"\x16\x03\x01\x02\x00\x01")  # of a handshake

    async def main() -> None:
        async with serving(tls=tls, max_connections=5, timeout=1) as address:
            with contextlib.ExitStack() as stack:
                connections = [
                    stack.enter_context(connected(address, sent)) for sent in 25 * beginnings
                ]
                await asyncio.sleep(0.3)
                assert [is_open(each) for each in connections] == 45 * [False] + 5 * [True]
                answers = [await ask(address, tls=trusting) for _ in range(3)]
                assert all(each.endswith(b"body") for each in answers)
                assert 2 <= sum(map(is_open, connections)) < 5  # the others gave their places
                async with asyncio.timeout(5):  # and asyncio's own limit is a minute
                    while any(map(is_open, connections)):
                        await asyncio.sleep(0.05)

    run(main(), new_loop)


@loops
def test_further_encrypted_connections_than_can_be_had_get_503(
    tls: Tls, trusting: ssl.SSLContext, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        async with serving(tls=tls, max_connections=2) as address:
            slow = [asyncio.create_task(ask(address, POST % b"0.7", trusting)) for _ in range(2)]
            await asyncio.sleep(0.3)
            for _ in range(3):
                assert (await ask(address, tls=trusting)).startswith(b"HTTP/1.1 503 ")
            for answer in await asyncio.gather(*slow):
                assert answer.endswith(b"body")
            assert (await ask(address, tls=trusting)).endswith(b"body")

    run(main(), new_loop)


@loops
def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    tls: Tls, trusting: ssl.SSLContext, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """In one piece, as clients of TLS 1.3 may send them."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")

    async def main() -> bytes:
        async with serving(tls=tls) as address:
            reader, writer = await asyncio.open_connection(*address)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(2**16))
            client.write(POST % b"0")
            writer.write(outgoing.read())
            received = b""
            while not received.endswith(b"body"):
                incoming.write(await reader.read(2**16))
                with contextlib.suppress(ssl.SSLWantReadError):
                    received += client.read()
            writer.close()
            return received

    received = run(main(), new_loop)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"body")


@loops
def test_connections_in_their_handshake_do_not_delay_the_end(
    tls: Tls, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        tasks = asyncio.all_tasks()
        listener = bind("127.0.0.1", 0)
        async with asyncio.timeout(20), HttpServer(create_app(), listener, grace=10, tls=tls):
            connections = [connected(listener.getsockname()[:2]) for _ in range(5)]
            ended = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - ended < 5
        for connection in connections:
            with connection:
                assert not is_open(connection)
        assert asyncio.all_tasks() == tasks

    run(main(), new_loop)


@loops
def test_clients_that_do_not_end_their_encryption_hold_no_places(
    tls: Tls, trusting: ssl.SSLContext, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """After the server has ended its encryption, TLS waits for the client to end its own."""

    def ask_and_stay(address: tuple[str, int], request: bytes) -> tuple[socket.socket, bytes]:
        plain = socket.create_connection(address, timeout=10)
        connection = trusting.wrap_socket(plain, server_hostname="localhost")
        connection.sendall(request)
        received = b""
        while piece := connection.recv(1000):
            received += piece
        plain = stack.enter_context(socket.socket(fileno=connection.detach()))
        plain.setblocking(False)
        return plain, received

    closing = POST.replace(b"host", b"connection: close\r\nhost")

    async def main() -> None:
        async with serving(tls=tls, max_connections=2) as address:
            stay: list[tuple[socket.socket, bytes]] = []
            for _ in range(4):
                stay.append(await asyncio.to_thread(ask_and_stay, address, closing % b"0"))
                assert stay[-1][1].endswith(b"body")
            slow = [asyncio.create_task(ask(address, POST % b"1.5", trusting)) for _ in range(2)]
            await asyncio.sleep(0.3)
            stay.append(await asyncio.to_thread(ask_and_stay, address, closing % b"0"))
            assert stay[-1][1].startswith(b"HTTP/1.1 503 ")
            for answer in await asyncio.gather(*slow):  # none of which gave its place
                assert answer.endswith(b"body")
            for connection, _ in stay:
                assert not is_open(connection)

    with contextlib.ExitStack() as stack:
        run(main(), new_loop)
