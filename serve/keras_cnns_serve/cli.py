"""The command line. Heavy imports wait until they are needed, so that --help is quick."""

import argparse
import logging
import os
import sys
import traceback
from threading import Timer
from typing import TYPE_CHECKING
from urllib.parse import quote

from .errors import ServeError
from .options import UsageError, parser, without_aliases

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .access_log import AccessLog
    from .dataplane import Dataplane, Options
    from .grpc_server import GrpcServer

GRPC_PORT = 8500
OVERTIME = 0.5  # seconds after the grace for what should have ended by itself


def main(arguments: list[str] | None = None, program: str = "keras-cnns-serve") -> int:
    """Serve a directory of exported models over HTTP and gRPC.

    Args:
        arguments: without the program's name; by default those of the process.
        program: the name to use in messages.

    Returns:
        The exit status: 0 after a signal to stop, 1 for failed work, 2 for wrong usage.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    description = (main.__doc__ or "").partition("\n")[0]
    try:
        options = parser(program, description).parse_args(without_aliases(arguments))
        if (options.models is None) == (options.model_config_file is None):
            both = options.models is not None
            raise UsageError(
                "give either MODELS or --model-config-file, not both"
                if both
                else "the following arguments are required: MODELS, or --model-config-file"
            )
        return _serve(options)
    except SystemExit as exit_:  # --help
        return int(exit_.code or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error, program)
        print(f"{program}: {message}", file=sys.stderr)
        return code


def _explain(error: Exception, program: str) -> tuple[str, int]:
    """What to tell a person, and the exit status."""
    match error:
        case UsageError():
            return f"{error}\nTry: {program} --help", 2
        case ServeError():
            return str(error), 1
    return f"{type(error).__name__}: {error} (--debug shows where)", 1


def _serve(options: argparse.Namespace) -> int:
    from .access_log import AccessLog
    from .app import create_app
    from .config import ServerConfig
    from .config_file import ConfigFile
    from .dataplane import Dataplane
    from .server import bind, run, url

    logging.basicConfig(
        format="%(levelname)s: %(message)s",
        level=logging.DEBUG if options.debug else logging.WARNING,
        stream=sys.stderr,
    )
    # First the socket: a port that is taken should not be found out after loading the models.
    grpc_port = _grpc_port(options)
    if grpc_port:
        bind(options.host, grpc_port, "--grpc-port").close()
    with bind(options.host, options.port) as listener:
        file = None if options.models else ConfigFile(options.model_config_file)
        config = file.config if file else ServerConfig(root=options.models, policy=options.versions)
        dataplane = Dataplane(config, _dataplane_options(options))
        dataplane.demand_a_model(str(options.models or options.model_config_file))
        log = AccessLog(sys.stderr) if options.access_log else None
        app = create_app(
            dataplane,
            max_body_bytes=options.max_body_bytes,
            timeout=options.timeout,
            admin=options.admin,
            finished=log,
        )
        grpc = None if grpc_port is None else _grpc(options, dataplane, grpc_port, log)
        # A thread that loads a model, or reads from a disk that hangs, cannot be ended otherwise.
        end = Timer(options.grace + OVERTIME, os._exit, [0])
        end.daemon = True

        def stopping() -> None:
            dataplane.stop(options.grace)
            end.start()

        with dataplane.watched(options.poll, file.changed if file else lambda: None):
            run(
                _traced(app) if options.opentelemetry else app,
                listener,
                ready=lambda: _announce(dataplane, url(listener), grpc),
                stopping=stopping,
                beside=[] if grpc is None else [lambda: grpc],
                grace=options.grace,
            )
        dataplane.close()
        end.cancel()
    return 0


def _grpc_port(options: argparse.Namespace) -> int | None:
    """The port of gRPC, None if it is off; where HTTP takes a free port, gRPC does too."""
    if options.grpc_port == "off":
        return None
    given: int | None = options.grpc_port
    return (GRPC_PORT if options.port else 0) if given is None else given


def _grpc(
    options: argparse.Namespace, dataplane: "Dataplane", port: int, log: "AccessLog | None"
) -> "GrpcServer":
    from .grpc_app import create_grpc

    return create_grpc(
        dataplane,
        options.host,
        port,
        max_message_bytes=options.max_body_bytes,
        timeout=options.timeout,
        grace=options.grace,
        admin=options.admin,
        finished=None if log is None else log.called,
    )


def _traced(app: "ASGIApp") -> "ASGIApp":
    from .tracing import Tracing, exporting_provider

    try:
        return Tracing(app, exporting_provider())
    except ImportError as error:
        raise UsageError(
            f"--opentelemetry needs more: pip install 'keras-cnns-serve[opentelemetry]' ({error})"
        ) from error


def _dataplane_options(options: argparse.Namespace) -> "Options":
    from .batching import BatchOptions
    from .dataplane import Options
    from .engine_choice import EngineOptions

    return Options(
        EngineOptions(options.engine, options.precision, options.threads or 0, _cores()),
        BatchOptions(
            max_batch=options.max_batch,
            max_delay=options.max_batch_delay / 1e3,
            max_queue=options.max_queue,
        ),
        options.max_pixels,
    )


def _announce(dataplane: "Dataplane", address: str, grpc: "GrpcServer | None") -> None:
    from .server import say

    models = dataplane.models()
    for model in models:
        versions = ", ".join(map(str, model.versions))
        height, width, channels = model.input.shape[1:]
        say(
            f"{model.name}: version {versions}, {height}x{width}x{channels} pixels, "
            f"{len(model.labels)} labels"
        )
    if grpc is not None:
        say(f"gRPC on {grpc.address}")
    say(f"serving on {address}")
    say(
        "try: curl --data-binary @image.png "
        f"{address}/v1/models/{quote(models[0].name)}:classify-image"
    )


def _cores() -> int:
    """How many cores this process may use, which in a container is not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
