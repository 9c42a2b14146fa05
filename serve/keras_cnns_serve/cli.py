"""The command line. Slow imports are made inside functions, so that --help is fast."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from keras_cnns_serve.errors import ServeError
from keras_cnns_serve.options import ServerOptions, UsageError, parse

if TYPE_CHECKING:
    import asyncio

    from keras_cnns_serve.compose import Server


_PROGRAM = "keras-cnns-serve"


def main(arguments: Sequence[str] | None = None, program: str = _PROGRAM) -> int:
    """Serve a directory of exported models over HTTP and gRPC.

    Args:
        arguments: the arguments after the program's name; by default those in `sys.argv`. If
            `program` has its default and the first argument is `score`, call `score` with the
            other arguments instead.
        program: the program's name in messages.

    Returns:
        The exit status: 0 after a signal to stop, 1 after a failure, 2 for wrong usage.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if program == _PROGRAM and list(arguments[:1]) == ["score"]:
        return score(arguments[1:], f"{program} score")
    debug = "--debug" in arguments
    description = (main.__doc__ or "").partition("\n")[0]

    def run() -> int:
        _serve(parse(program, description, arguments), debug)
        return 0

    return _status(run, program, debug)


def score(arguments: Sequence[str], program: str = f"{_PROGRAM} score") -> int:
    """Label images, folders or lists of images with an exported model.

    Args:
        arguments: the arguments after the program's name.
        program: the program's name in messages.

    Returns:
        The exit status: 0 if all images were scored, 3 if some of them could not be scored, 1 after
        a failure, 2 for wrong usage, 130 after an interruption.
    """
    description = (score.__doc__ or "").partition("\n")[0]

    def run() -> int:
        from keras_cnns_serve import process
        from keras_cnns_serve.scoring import options as scoring_options

        options = scoring_options.parse(program, description, arguments)
        process.return_large_blocks()
        from keras_cnns_serve.scoring import job

        try:
            return job.score(options)
        except KeyboardInterrupt:
            hint = "" if options.to is None else "; run the same command again to continue"
            print(f"{program}: interrupted{hint}", file=sys.stderr)
            raise
        except BrokenPipeError:  # the reader of standard output, such as `head`, has read enough
            # Python flushes standard output again when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    return _status(run, program, "--debug" in arguments)


def _status(run: Callable[[], int], program: str, debug: bool) -> int:
    """Run a command, print its error, and return its exit status."""
    try:
        return run()
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
    """Return the message for the user, and the exit status."""
    match error:
        case UsageError():
            return f"{error}\nTry: {program} --help", 2
        case ServeError():
            return str(error), 1
        case OSError(strerror=str(reason)):
            name = "" if error.filename is None else f" {error.filename}"
            return f"cannot write or read{name}: {reason}", 1
    return f"{type(error).__name__}: {error} (the option --debug shows the traceback)", 1


def _serve(options: ServerOptions, debug: bool) -> None:
    # grpcio reads this variable when it is imported. By default, grpcio writes a line to stderr for
    # each protocol error of a client.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from keras_cnns_serve import process
    from keras_cnns_serve.compose import Server
    from keras_cnns_serve.observability.logs import queued

    async def main(stop: "asyncio.Event") -> None:
        async with Server(options) as server:
            process.tune()
            _announce(server)
            await stop.wait()

    process.open_standard_streams()
    process.raise_open_files()
    with queued(sys.stderr, logging.DEBUG if debug else logging.INFO):
        process.run(main, options.grace)


def _announce(server: "Server") -> None:
    models = server.dataplane.models()
    for model in models:
        versions = ", ".join(map(str, model.versions))
        noun = "version" if len(model.versions) == 1 else "versions"
        height, width, channels = model.input.shape[1:]
        print(
            f"{model.name}: {noun} {versions}, {height}x{width}x{channels} pixels, "
            f"{len(model.labels)} labels"
        )
    if server.grpc_address is not None:
        print(f"gRPC on {server.grpc_address}")
    print(f"serving on {server.url}")
    example = f"{server.url}/v1/models/{quote(models[0].name)}:classify-image"
    print(f"try: curl --data-binary @image.png {example}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
