"""The command line. Heavy imports wait until they are needed, so that --help is quick."""

import argparse
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from .errors import ServeError

EPILOG = """\
MODELS is a directory of models (models/digits/1/model.json), or of one model (models/digits).

example:
  {program} models --port 8501
  curl --data-binary @image.png http://127.0.0.1:8501/v1/models/digits:classify-image
"""


class UsageError(Exception):
    """The arguments are wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


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
    try:
        return _serve(_parser(program).parse_args(arguments))
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
    from .dataplane import Dataplane
    from .rest import create_app
    from .server import bind, run, say, url

    logging.basicConfig(
        format="%(levelname)s: %(message)s",
        level=logging.DEBUG if options.debug else logging.WARNING,
        stream=sys.stderr,
    )
    # First the socket: a port that is taken should not be found out after loading the models.
    with bind(options.host, options.port) as listener:
        dataplane = Dataplane.open(
            options.models, threads=options.threads, max_pixels=options.max_pixels
        )
        models = dataplane.models()
        app = create_app(dataplane, max_body_bytes=options.max_body_bytes)

        def announce() -> None:
            for model in models:
                versions = ", ".join(map(str, model.versions))
                height, width, channels = model.input.shape[1:]
                say(
                    f"{model.name}: version {versions}, {height}x{width}x{channels} pixels, "
                    f"{len(model.labels)} labels"
                )
            address = url(listener)
            say(f"serving on {address}")
            say(
                "try: curl --data-binary @image.png "
                f"{address}/v1/models/{quote(models[0].name)}:classify-image"
            )

        run(app, listener, announce)
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description=(main.__doc__ or "").partition("\n")[0],
        epilog=EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("models", metavar="MODELS", type=Path, help="the directory of the exported models")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (%(default)s)")
    add(
        "--port",
        type=_integer(0, 65535),
        default=8501,
        help="TCP port; 0 picks a free one (%(default)s)",
    )
    add(
        "--threads",
        type=_integer(1, 1024),
        default=1,
        help="threads for one prediction; predictions run side by side on all cores (%(default)s)",
    )
    add(
        "--max-body-bytes",
        metavar="BYTES",
        type=_integer(1, 2**31),
        default=32 * 2**20,
        help="the longest request body taken (%(default)s)",
    )
    add(
        "--max-pixels",
        metavar="PIXELS",
        # Beyond this Pillow refuses by itself.
        type=_integer(1, 178_956_970),
        default=50_000_000,
        help="the largest image decoded, width times height (%(default)s)",
    )
    add("--debug", action="store_true", help="show tracebacks and a detailed log")
    return parser


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # The length first: int() has its own error for thousands of digits.
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not (digits and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not an integer from {low} to {high}"
            )
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
