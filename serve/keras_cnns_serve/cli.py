"""The command line. Heavy imports wait until they are needed, so that --help is quick."""

import argparse
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

from .errors import ServeError
from .options import UsageError, parser, without_aliases

if TYPE_CHECKING:
    from .config import ServerConfig
    from .dataplane import Dataplane, Options


def main(arguments: list[str] | None = None, program: str = "keras-cnns-serve") -> int:
    """Serve a directory of exported models over HTTP.

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
    from .dataplane import Dataplane
    from .server import bind, run, url

    logging.basicConfig(
        format="%(levelname)s: %(message)s",
        level=logging.DEBUG if options.debug else logging.WARNING,
        stream=sys.stderr,
    )
    # First the socket: a port that is taken should not be found out after loading the models.
    with bind(options.host, options.port) as listener:
        dataplane = Dataplane(_config(options), _dataplane_options(options))
        dataplane.demand_a_model(str(options.models or options.model_config_file))
        app = create_app(
            dataplane,
            max_body_bytes=options.max_body_bytes,
            timeout=options.timeout,
            finished=AccessLog(sys.stderr) if options.access_log else None,
        )
        with dataplane.watched(options.poll):
            run(
                app,
                listener,
                ready=lambda: _announce(dataplane, url(listener)),
                stopping=dataplane.stop,
                grace=options.grace,
            )
        dataplane.close(options.grace)
    return 0


def _config(options: argparse.Namespace) -> "ServerConfig":
    from .config import ServerConfig

    if options.model_config_file is None:
        return ServerConfig(root=options.models, policy=options.versions)
    from .config_file import read_config

    return read_config(options.model_config_file)


def _dataplane_options(options: argparse.Namespace) -> "Options":
    from .batching import BatchOptions
    from .dataplane import Options
    from .engine_choice import EngineOptions

    return Options(
        EngineOptions(options.engine, options.precision, options.threads or 0, _cores()),
        BatchOptions(options.max_batch, options.max_batch_delay / 1e3, options.max_queue),
        options.max_pixels,
    )


def _announce(dataplane: "Dataplane", address: str) -> None:
    from .server import say

    models = dataplane.models()
    for model in models:
        versions = ", ".join(map(str, model.versions))
        height, width, channels = model.input.shape[1:]
        say(
            f"{model.name}: version {versions}, {height}x{width}x{channels} pixels, "
            f"{len(model.labels)} labels"
        )
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
