"""The server within another program."""

import asyncio
import gc
import logging
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from keras_cnns_serve import Server, ServerOptions
from keras_cnns_serve.options import UsageError
from keras_cnns_serve.transport.addresses import AddressError
from tests.serve.processes import CLASSIFY, IMAGE

README = Path(__file__).parents[2] / "serve" / "README.md"
READY = "/inference.GRPCInferenceService/ServerReady"


def settings() -> list[Any]:
    """The settings of the process that a library must not change."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    logs = [logging.getLogger().handlers[:], logging.getLogger().level]
    return [*handlers, *logs, gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()]


def test_two_servers_on_one_event_loop_leave_the_process_alone(repository: Path) -> None:
    async def ask(server: Server) -> None:
        async with (
            httpx.AsyncClient(base_url=server.url) as http,
            grpc.aio.insecure_channel(str(server.grpc_address)) as channel,
        ):
            answer = (await http.post(CLASSIFY, content=IMAGE)).json()
            assert answer["predictions"][0]["labels"][0]["label"] == "grey-5"
            assert await channel.unary_unary(READY)(b"") == b"\x08\x01"

    async def main() -> None:
        gc.unfreeze()  # objects that conftest.py froze may be freed meanwhile, and change the count
        gc.collect()  # since Python 3.12, a collection freezes immortal objects
        before = settings()
        options = ServerOptions(models=str(repository), port=0, grace=1)
        async with Server(options) as one:
            async with Server(options) as other:
                assert one.url != other.url
                await asyncio.gather(ask(one), ask(other))
                assert settings() == before
            await ask(one)  # stopping one server does not stop the other
        assert settings() == before

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("taken", ["port", "grpc_port"])
def test_a_port_that_is_taken_leaves_nothing_behind(repository: Path, taken: str) -> None:
    async def main() -> None:
        async with Server(ServerOptions(models=repository, port=0, grace=0)) as server:
            address = server.url if taken == "port" else str(server.grpc_address)
            options: dict[str, Any] = {"port": 0, taken: int(address.rpartition(":")[2])}
            threads = threading.active_count()
            with pytest.raises(AddressError, match="Address already in use"):
                async with Server(ServerOptions(models=repository, **options)):
                    pass
            assert threading.active_count() <= threads + 1  # the default executor may have grown

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_start_that_is_cancelled_frees_the_models(repository: Path) -> None:
    async def main() -> None:
        threads = threading.active_count()
        server = Server(ServerOptions(models=repository, port=0, grace=0))
        starting = asyncio.create_task(server.__aenter__())
        await asyncio.sleep(0)  # it has begun to load in another thread
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        while not server.dataplane.draining:  # once it is loaded, it is closed
            await asyncio.sleep(0.01)
        while threading.active_count() > threads + 2:  # the default executor may have grown
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_server_is_entered_once(repository: Path) -> None:
    async def main() -> None:
        server = Server(ServerOptions(models=repository / "grey", port=0, grace=0))
        async with server:
            pass
        with pytest.raises(RuntimeError, match="can be entered only once"):
            await server.__aenter__()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_options_say_what_to_serve() -> None:
    with pytest.raises(UsageError, match="MODELS, or --model-config-file"):
        ServerOptions()
    with pytest.raises(UsageError, match="not both"):
        ServerOptions(models=Path("a"), model_config_file=Path("b"))


def test_the_example_with_fastapi(repository: Path) -> None:
    """The program in the README, asked through its own application."""
    program = re.search(r"```python\n(.*?FastAPI.*?)```", README.read_text(), re.DOTALL)
    assert program
    names: dict[str, Any] = {}
    source = program[1].replace('Path("models")', f"Path({str(repository)!r}), port=0")
    source = source.replace("digits-resnet20", "grey")
    exec(compile(source, str(README), "exec"), names)

    async def main() -> None:
        app = names["app"]
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            answer = await client.post("/label", content=IMAGE)
            assert answer.json() == {"label": "grey-5"}

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    ("host", "secured", "message"),
    [
        ("127.0.0.1", False, ""),
        ("0.0.0.0", False, "not encrypted (--tls-certificate); everyone can request predictions"),
        ("0.0.0.0", True, "the server, but connections are not encrypted (--tls-certificate)"),
    ],
)
def test_what_other_machines_can_do_is_logged(
    repository: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    host: str,
    secured: bool,
    message: str,
) -> None:
    tokens, others = tmp_path / "tokens", tmp_path / "others"
    tokens.write_text("t" * 32)
    others.write_text("o" * 32)
    options = ServerOptions(
        models=repository,
        host=host,
        port=0,
        grace=0,
        admin=True,
        grpc_port="off",
        token_file=tokens if secured else None,
        admin_token_file=others if secured else None,
    )

    async def main() -> None:
        async with Server(options):
            pass

    asyncio.run(asyncio.wait_for(main(), 60))
    (line,) = [line for line in caplog.messages if "other machines" in line] or [""]
    assert message in line
    assert bool(line) == bool(message)
    assert ("--admin-token-file" in line) == (bool(message) and not secured)
