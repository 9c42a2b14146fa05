"""The options of the command line."""

import argparse
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from .policy import VersionPolicy, parse_policy

EPILOG = """\
MODELS is a directory of models (models/digits/1/model.json), or of one model (models/digits).

example:
  {program} models --port 8501
  curl --data-binary @image.png http://127.0.0.1:8501/v1/models/digits:classify-image
"""
ENGINES = ("auto", "onnxruntime", "openvino", "tensorflow")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")


class UsageError(Exception):
    """The arguments are wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


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


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = re.fullmatch(r"\d{1,12}(\.\d{0,9})?", text)
        if not number or not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not a number from {low:g} to {high:g}"
            )
        return float(text)

    return parse


def _port_or_off(text: str) -> int | str:
    return text if text == "off" else _integer(0, 65535)(text)


def _policy(text: str) -> VersionPolicy:
    try:
        return parse_policy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# TensorFlow Serving's names of what is the same here.
ALIASES = {
    "--rest_api_port": "--port",
    "--model_config_file": "--model-config-file",
    "--file_system_poll_wait_seconds": "--poll",
    "--model_config_file_poll_wait_seconds": "--poll",
}
# Every option: the type, the default and the help.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "where": {
        "--host": {
            "default": "127.0.0.1",
            "help": "address to listen on; 0.0.0.0 for all (%(default)s)",
        },
        "--port": {
            "type": _integer(0, 65535),
            "default": 8501,
            "help": "TCP port of HTTP; 0 picks a free one (%(default)s)",
        },
        "--grpc-port": {
            "metavar": "PORT",
            "type": _port_or_off,
            "help": "TCP port of gRPC; 0 picks one, off serves none (8500; with --port 0, 0)",
        },
        "--admin": {
            "action": "store_true",
            "help": "let clients load, unload and configure models",
        },
    },
    "what": {
        "--model-config-file": {
            "metavar": "FILE",
            "type": Path,
            "help": "serve the models of this file instead of MODELS: TensorFlow Serving's "
            "model_config_list, or TOML",
        },
        "--versions": {
            "type": _policy,
            "default": "latest:1",
            "help": "which versions of each model in MODELS: latest:2, all or 3,4 (%(default)s)",
        },
        "--poll": {
            "metavar": "SECONDS",
            "type": _number(0, 86400),
            "default": 1.0,
            "help": "look for new versions this often; 0 never (%(default)s)",
        },
    },
    "how": {
        "--engine": {
            "choices": ENGINES,
            "default": "auto",
            "help": "what runs the graph; auto is the fastest that model.json shows proven",
        },
        "--precision": {"choices": PRECISIONS, "default": "auto", "help": "of the graph"},
        "--threads": {
            "type": _integer(1, 1024),
            "help": "threads for one prediction (measured when a model is loaded)",
        },
        "--max-batch": {
            "metavar": "IMAGES",
            "type": _integer(1, 1024),
            "default": 16,
            "help": "the most images that are run together (%(default)s)",
        },
        "--max-batch-delay": {
            "metavar": "MS",
            "type": _number(0, 60_000),
            "default": 0.0,
            "help": "milliseconds that a batch waits to be filled (%(default)g: a lone "
            "request never waits)",
        },
    },
    "limits": {
        "--max-queue": {
            "metavar": "REQUESTS",
            "type": _integer(1, 1_000_000),
            "default": 1024,
            "help": "requests that wait for one model; more get 429 (%(default)s)",
        },
        "--timeout": {
            "metavar": "SECONDS",
            "type": _number(0.001, 86400),
            "default": 30.0,
            "help": "the longest that a request may take; then it gets 504 (%(default)g)",
        },
        "--grace": {
            "metavar": "SECONDS",
            "type": _integer(0, 3600),
            "default": 5,
            "help": "for what is in flight when the server is told to stop (%(default)s)",
        },
        "--max-body-bytes": {
            "metavar": "BYTES",
            "type": _integer(1, 2**31),
            "default": 32 * 2**20,
            "help": "the longest request body taken (%(default)s)",
        },
        "--max-pixels": {
            "metavar": "PIXELS",
            # Beyond this Pillow refuses by itself.
            "type": _integer(1, 178_956_970),
            "default": 50_000_000,
            "help": "the largest image decoded, width times height (%(default)s)",
        },
    },
    "logs": {
        "--access-log": {
            "action": "store_true",
            "help": "a line of JSON for every answer, to stderr",
        },
        "--opentelemetry": {
            "action": "store_true",
            "help": "send a span for every HTTP request, as OTEL_EXPORTER_OTLP_ENDPOINT says",
        },
        "--debug": {"action": "store_true", "help": "show tracebacks and a detailed log"},
        "--version": {
            "action": "version",
            "version": f"keras-cnns-serve {metadata.version('keras-cnns-serve')}",
            "help": "print the version",
        },
    },
}


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The parser of the command line; what is wrong raises UsageError."""
    result = _Parser(
        prog=program,
        description=description,
        epilog=EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument(
        "models",
        metavar="MODELS",
        nargs="?",
        type=Path,
        help="the directory of the exported models",
    )
    for title, options in OPTIONS.items():
        group = result.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **settings)
    return result


def without_aliases(arguments: list[str]) -> list[str]:
    """The arguments, with TensorFlow Serving's names replaced by ours."""
    split = (argument.partition("=") for argument in arguments)
    return [ALIASES.get(name, name) + equals + value for name, equals, value in split]
