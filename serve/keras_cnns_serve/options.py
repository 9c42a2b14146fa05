"""The options of the server, in Python and on the command line."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from keras_cnns_serve.repository.policy import Latest, VersionPolicy, parse_policy

_EPILOG = """\
MODELS is a directory that contains models, or the directory of one model. If there is
models/digits/1/model.json, for example, MODELS is models or models/digits.

example:
  {program} models --port 8501
  curl --data-binary @image.png http://127.0.0.1:8501/v1/models/digits:classify-image
"""
ENGINES = ("auto", "onnxruntime", "openvino", "tensorflow")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")
OFF = "off"


class UsageError(Exception):
    """The options are wrong."""


@dataclass(frozen=True)
class ServerOptions:
    """The options of a server: its models, addresses, security and limits.

    Raises:
        UsageError: both or neither of `models` and `model_config_file` are given; an option is
            given without another one that it needs; an origin is malformed; or the ports for HTTP
            and gRPC are the same.
    """

    models: Path | str | None = None  # the directory of the exported models
    # A file that lists the models: TensorFlow Serving's model_config_list, or TOML.
    model_config_file: Path | str | None = None
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all addresses
    port: int = 8501  # TCP port of HTTP; 0 picks a free one
    # TCP port of gRPC; None: 8500, or 0 if `port` is 0; "off": no gRPC.
    grpc_port: int | str | None = None
    admin: bool = False  # whether clients may load, unload and configure models
    # File of the bearer tokens that permit predictions; None: no token is needed.
    token_file: Path | str | None = None
    # File of the bearer tokens that permit administration; None: no token is needed.
    admin_token_file: Path | str | None = None
    open_metrics: bool = False  # whether metrics are readable without a token
    # PEM file of the certificate and its chain; None: no encryption.
    tls_certificate: Path | str | None = None
    tls_key: Path | str | None = None  # PEM file of the certificate's private key
    # PEM file of an authority; clients need a certificate that this authority signed.
    tls_client_ca: Path | str | None = None
    cors_origin: Sequence[str] = ()  # the origins whose pages may call this server
    page: bool = True  # whether browsers get a page at / for trying the models
    # The policy that chooses which versions of each model in `models` are served.
    versions: VersionPolicy = Latest()  # noqa: RUF009 - frozen
    poll: float = 1.0  # seconds between two polls for new versions; 0: never
    engine: str = "auto"  # one of ENGINES
    precision: str = "auto"  # one of PRECISIONS
    # Number of threads for one image; None: chosen by a measurement when a model is loaded.
    threads: int | None = None
    max_batch: int = 16  # maximum number of images in one run
    max_batch_delay: float = 0.0  # maximum milliseconds that a batch waits for more images
    max_queue: int = 1024  # maximum number of requests that wait for one model
    timeout: float = 30.0  # maximum seconds for a request
    load_timeout: float = 60.0  # maximum seconds to load a version and run it once
    grace: float = 5  # maximum seconds to wait for requests in flight when the server stops
    # Bytes that the requests of all clients can use; None: a quarter of the usable memory.
    memory_budget: int | None = None
    max_body_bytes: int = 32 * 2**20  # maximum size of a request body
    max_json_bytes: int = 8 * 2**20  # maximum size of the JSON in a request
    max_connections: int = 4096  # maximum number of open connections on each port
    # Seconds without progress after which a connection is closed. The default is longer than the 60
    # seconds that are usual for load balancers.
    connection_timeout: float = 75.0
    max_pixels: int = 50_000_000  # maximum size of an image, width times height
    access_log: bool = False  # log each response to the logger keras_cnns_serve.access
    opentelemetry: bool = False  # export a span for each request

    def __post_init__(self) -> None:
        if self.models and self.model_config_file:
            raise UsageError("give either MODELS or --model-config-file, not both")
        if not (self.models or self.model_config_file):
            raise UsageError("the following arguments are required: MODELS, or --model-config-file")
        if (self.tls_certificate is None) != (self.tls_key is None) or (
            self.tls_client_ca is not None and self.tls_certificate is None
        ):
            raise UsageError("TLS needs both --tls-certificate and --tls-key")
        for one, other in (
            ("admin_token_file", "admin"),
            ("open_metrics", "token_file"),
        ):
            if getattr(self, one) and not getattr(self, other):
                raise UsageError(f"{_option(one)} has no effect without {_option(other)}")
        if self.admin and self.token_file is not None and self.admin_token_file is None:
            raise UsageError(
                "with --token-file, --admin needs --admin-token-file: otherwise everybody could "
                "load and unload models"
            )
        for origin in self.cors_origin:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise UsageError(
                    f"--cors-origin {origin[:80]!r} is not an origin, such as https://example.com, "
                    "or *"
                )
        if self.port and self.port == self.grpc_port:
            raise UsageError(f"HTTP and gRPC need different ports, but both have {self.port}")


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


class Parser(argparse.ArgumentParser):
    """A parser of arguments that raises `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        raise UsageError(message)


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of integers from `low` to `high`."""

    def parse(text: str) -> int:
        # int() raises a different error for thousands of digits, so check the length first.
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not (digits and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not an integer from {low} to {high}"
            )
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`."""

    def parse(text: str) -> float:
        is_number = re.fullmatch(r"\d{1,12}(\.\d{0,9})?", text)
        if not is_number or not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not a number from {low:g} to {high:g}"
            )
        return float(text)

    return parse


def _bytes(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,16})([KMGT]?)(I?)B?", text.upper())
        if match:
            number, prefix, binary = match.groups()
            size: int = int(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")
            if low <= size <= high:
                return size
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a size from {low} to {high} bytes, such as 256MB or 1GiB"
        )

    return parse


def _port_or_off(text: str) -> int | str:
    return text if text == OFF else integer(0, 65535)(text)


def _policy(text: str) -> VersionPolicy:
    try:
        return parse_policy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Options of TensorFlow Serving, and our options with the same meaning.
_ALIASES = {
    "--rest_api_port": "--port",
    "--model_config_file": "--model-config-file",
    "--file_system_poll_wait_seconds": "--poll",
    "--model_config_file_poll_wait_seconds": "--poll",
}
# All options by group, with their arguments of `add_argument`. The defaults are those of
# `ServerOptions`.
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "addresses": {
        "--host": {
            "help": "address to listen on; 0.0.0.0 means all addresses, and gRPC then also listens "
            "on IPv6 (default: %(default)s)",
        },
        "--port": {
            "type": integer(0, 65535),
            "help": "TCP port of HTTP; 0 picks a free one (default: %(default)s)",
        },
        "--grpc-port": {
            "metavar": "PORT",
            "type": _port_or_off,
            "help": "TCP port of gRPC; 0 picks a free one, off disables gRPC (default: 8500, or 0 "
            "with --port 0)",
        },
    },
    "security": {
        "--admin": {
            "action": "store_true",
            "help": "let clients load, unload and configure models",
        },
        "--token-file": {
            "metavar": "FILE",
            "type": Path,
            "help": "clients need a bearer token for predictions; this file lists the tokens, one "
            "per line, and is read again when it changes",
        },
        "--admin-token-file": {
            "metavar": "FILE",
            "type": Path,
            "help": "clients need a bearer token from this file for administration; these tokens "
            "also permit predictions",
        },
        "--tls-certificate": {
            "metavar": "FILE",
            "type": Path,
            "help": "encrypt both ports with TLS; this file has the certificate and its chain "
            "(PEM), and is read again when it changes",
        },
        "--tls-key": {
            "metavar": "FILE",
            "type": Path,
            "help": "the private key of the certificate (PEM, without a password)",
        },
        "--tls-client-ca": {
            "metavar": "FILE",
            "type": Path,
            "help": "mutual TLS: clients need a certificate that the authority in this file (PEM) "
            "signed",
        },
        "--open-metrics": {
            "action": "store_true",
            "help": "let clients read metrics without a token",
        },
        "--cors-origin": {
            "metavar": "ORIGIN",
            "action": "append",
            "help": "let web pages of this origin, such as https://example.com, call this server; "
            "* means all origins; may be repeated (default: none)",
        },
        "--no-page": {
            "action": "store_false",
            "dest": "page",
            "help": "serve no page at / for trying the models; browsers get the same JSON there as "
            "programs",
        },
    },
    "models": {
        "--model-config-file": {
            "metavar": "FILE",
            "type": Path,
            "help": "instead of MODELS, a file that lists the models to serve: TensorFlow "
            "Serving's model_config_list, or TOML",
        },
        "--versions": {
            "type": _policy,
            "help": "which versions of each model in MODELS are served, for example latest:2, all "
            "or 3,4 (default: latest:1)",
        },
        "--poll": {
            "metavar": "SECONDS",
            "type": number(0, 86400),
            "help": "poll for new versions at this interval; 0 disables polling (default: "
            "%(default)s)",
        },
    },
    "execution": {
        "--engine": {
            "choices": ENGINES,
            "help": "the runtime of the graph; auto: the fastest one that is accurate according to "
            "model.json; the server measures the speed again while it is idle (default: auto)",
        },
        "--precision": {
            "choices": PRECISIONS,
            "help": "the precision of the graph (default: auto)",
        },
        "--threads": {
            "type": integer(1, 1024),
            "help": "number of threads for one image (default: chosen by a measurement when a "
            "model is loaded, and corrected while serving)",
        },
        "--max-batch": {
            "metavar": "IMAGES",
            "type": integer(1, 1024),
            "help": "maximum number of images in one run (default: %(default)s)",
        },
        "--max-batch-delay": {
            "metavar": "MS",
            "type": number(0, 60_000),
            "help": "maximum milliseconds that a batch waits for more images (default: "
            "%(default)g; with 0, a batch never waits for more images)",
        },
    },
    "limits": {
        "--max-queue": {
            "metavar": "REQUESTS",
            "type": integer(1, 1_000_000),
            "help": "maximum number of requests that wait for one model; further requests get "
            "status 429 (default: %(default)s)",
        },
        "--timeout": {
            "metavar": "SECONDS",
            "type": number(0.001, 86400),
            "help": "maximum time of a request; if it takes longer, it gets status 504 (default: "
            "%(default)g)",
        },
        "--load-timeout": {
            "metavar": "SECONDS",
            "type": number(0.001, 86400),
            "help": "maximum time to load a version and run it once; a slower version is refused "
            "(default: %(default)g)",
        },
        "--grace": {
            "metavar": "SECONDS",
            "type": integer(0, 3600),
            "help": "maximum time to wait for requests in flight after SIGINT or SIGTERM (default: "
            "%(default)s)",
        },
        "--memory-budget": {
            "metavar": "BYTES",
            "type": _bytes(2**24, 2**50),
            "help": "memory for the request bodies and images of all clients together, such as "
            "512MB; while it is full, further requests get status 429 (default: a quarter of the "
            "memory that this process may use)",
        },
        "--max-body-bytes": {
            "metavar": "BYTES",
            "type": _bytes(1, 2**31 - 1),  # grpcio's maximum
            "help": "maximum size of a request body, such as 64MB; a larger one gets status 413 "
            "(default: %(default)s)",
        },
        "--max-json-bytes": {
            "metavar": "BYTES",
            "type": _bytes(1, 2**31),
            "help": "maximum size of the JSON in a request; a larger one gets status 413 (default: "
            "%(default)s)",
        },
        "--max-pixels": {
            "metavar": "PIXELS",
            # Pillow itself rejects larger images.
            "type": integer(1, 178_956_970),
            "help": "maximum size of an image, width times height (default: %(default)s)",
        },
        "--max-connections": {
            "metavar": "N",
            "type": integer(1, 1_000_000),
            "help": "maximum number of open connections on each port (default: %(default)s)",
        },
        "--connection-timeout": {
            "metavar": "SECONDS",
            "type": number(1, 86400),
            "help": "close a connection after this time if it is idle, or if its client stops "
            "sending a request or reading a response (default: %(default)g)",
        },
    },
    "logs": {
        "--access-log": {
            "action": "store_true",
            "help": "write a line of JSON to stderr for each response",
        },
        "--opentelemetry": {
            "action": "store_true",
            "help": "send a trace span for each request to the URL in the environment variable "
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        },
        "--debug": {"action": "store_true", "help": "show tracebacks and a detailed log"},
        "--version": {
            "action": "version",
            "version": f"keras-cnns-serve {metadata.version('keras-cnns-serve')}",
            "help": "print the version",
        },
    },
}


def parse(program: str, description: str, arguments: Sequence[str]) -> ServerOptions:
    """Read the command line.

    Raises:
        UsageError: an argument is wrong.
        SystemExit: --help or --version was given.
    """
    parser = Parser(
        prog=program,
        description=description,
        epilog=_EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        metavar="MODELS",
        nargs="?",
        type=Path,
        help="the directory of the exported models",
    )
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(name, **settings)
    defaults = {field.name: field.default for field in fields(ServerOptions)}
    parser.set_defaults(**defaults | {"cors_origin": []})  # a list, since argparse appends to it
    given = vars(parser.parse_args(_without_aliases(arguments)))
    del given["debug"]
    return ServerOptions(**given)


def _without_aliases(arguments: Sequence[str]) -> list[str]:
    """Replace TensorFlow Serving's names of options by our names."""
    split = (argument.partition("=") for argument in arguments)
    return [_ALIASES.get(name, name) + equals + value for name, equals, value in split]
