"""Compose the server from models, protocols, transports and logs."""

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Scope

from keras_cnns_serve.core.access import Access
from keras_cnns_serve.core.batching import BatchOptions
from keras_cnns_serve.core.dataplane import Dataplane
from keras_cnns_serve.core.idle import give_memory_back_when_idle, measure_formats_when_idle
from keras_cnns_serve.core.limits import BUDGET_DIVISOR, Budget, usable_cores, usable_memory
from keras_cnns_serve.core.servable import Options
from keras_cnns_serve.engines.choice import EngineOptions
from keras_cnns_serve.observability.access_log import AccessLog
from keras_cnns_serve.options import OFF, ServerOptions, UsageError
from keras_cnns_serve.protocols.admission import Admission
from keras_cnns_serve.protocols.health import health_service
from keras_cnns_serve.protocols.home import Home
from keras_cnns_serve.protocols.images import ImageEndpoint
from keras_cnns_serve.protocols.oip.grpc import OpenInferenceGrpc
from keras_cnns_serve.protocols.oip.rest import OpenInferenceRest
from keras_cnns_serve.protocols.openapi import openapi
from keras_cnns_serve.protocols.page import Page
from keras_cnns_serve.protocols.tfserving.grpc import TensorFlowServingGrpc
from keras_cnns_serve.protocols.tfserving.rest import TensorFlowServingRest
from keras_cnns_serve.repository.configuration import ConfigFile, ServerConfig
from keras_cnns_serve.transport.addresses import bind, is_loopback, url
from keras_cnns_serve.transport.grpc.server import ConnectionLimits, GrpcServer
from keras_cnns_serve.transport.http.asgi import App, FastRoute, Reply
from keras_cnns_serve.transport.http.errors import HANDLERS
from keras_cnns_serve.transport.http.server import HttpServer
from keras_cnns_serve.transport.tls import Tls

logger = logging.getLogger(__name__)

_GRPC_PORT = 8500


class _ModelNameConvertor(StringConvertor):
    """Match a model's name in a path: it ends at a slash, or at a colon as in `:predict`."""

    regex = "[^/:]+"


register_url_convertor("model", _ModelNameConvertor())


class Server:
    """A model server that runs on the current event loop while its context is entered.

    It installs no signal or log handlers and changes no settings of the interpreter; it adds a
    filter to grpcio's logger. Several servers can run on one event loop, but grpcio supports only
    one event loop in a process. A server can be entered only once.

        async with Server(ServerOptions(models=Path("models"), port=0)) as server:
            print(server.url)

    Args:
        options: the models, addresses, security and limits.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._stack = contextlib.AsyncExitStack()
        self._entered = False
        self._loading = threading.Lock()
        self._dataplane: Dataplane | None = None

    @property
    def url(self) -> str:
        """Return the URL of the HTTP server."""
        return self._url

    @property
    def grpc_address(self) -> str | None:
        """Return the host and port of the gRPC server, or None without gRPC."""
        return None if self._grpc is None else self._grpc.address

    @property
    def dataplane(self) -> Dataplane:
        """Return the data plane; the first call loads the models, and other calls wait for it."""
        # Since Python 3.12, cached_property has no lock: each thread would load the models.
        with self._loading:
            if self._dataplane is None:
                self._dataplane = self._load()
            return self._dataplane

    def _load(self) -> Dataplane:
        options = self._options
        engine = EngineOptions(
            options.engine,
            options.precision,
            options.threads or 0,
            usable_cores(),
            options.load_timeout,
        )
        batch = BatchOptions(
            max_batch=options.max_batch,
            max_delay=options.max_batch_delay / 1e3,
            max_queue=options.max_queue,
        )
        if self._file is None:
            root = None if options.models is None else Path(options.models)
            config = ServerConfig(root=root, policy=options.versions)
        else:
            config = self._file.config
        budget = Budget(options.memory_budget or usable_memory() // BUDGET_DIVISOR)
        return Dataplane(config, Options(engine, batch, options.max_pixels, budget, options.admin))

    async def __aenter__(self) -> "Server":
        """Load the models and start the transports.

        Raises:
            RuntimeError: the server was entered before.
            AddressError: a port is in use or not permitted.
            RepositoryError: no model can be served.
            ConfigError: the configuration file is wrong.
            UsageError: OpenTelemetry is requested but not installed.
        """
        if self._entered:
            raise RuntimeError("a Server can be entered only once; create another one")
        self._entered = True
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server: answer requests in flight, reject new requests, and end the threads."""
        self.dataplane.stop(self._options.grace)
        # Stop the transports concurrently, so that each of them has the whole grace period.
        ends = (each.__aexit__(None, None, None) for each in self._transports)
        try:
            await asyncio.gather(*ends)
        finally:
            await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        options = self._options
        # Bind first, to report a port in use before the models are loaded.
        listener = stack.enter_context(bind(options.host, options.port))
        tls = None
        if options.tls_certificate is not None and options.tls_key is not None:
            tls = Tls(options.tls_certificate, options.tls_key, options.tls_client_ca)
        self._url = url(listener, "http" if tls is None else "https")
        grpc_port = _grpc_port(options)
        if grpc_port:
            bind(options.host, grpc_port, "--grpc-port").close()
        file = options.model_config_file
        self._file = None if file is None else ConfigFile(Path(file))
        loading = asyncio.create_task(asyncio.to_thread(lambda: self.dataplane))
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:  # the thread that loads the models cannot be interrupted
            loading.add_done_callback(_close_loaded)
            raise
        stack.push_async_callback(asyncio.to_thread, self.dataplane.close)
        self.dataplane.require_models(str(options.models or file))
        log = AccessLog() if options.access_log else None
        access = Access(options.token_file, options.admin_token_file)
        page = Page() if options.page else None
        admission = Admission(access, options.open_metrics, page)
        app: ASGIApp = create_app(
            self.dataplane,
            max_body_bytes=options.max_body_bytes,
            max_json_bytes=options.max_json_bytes,
            timeout=options.timeout,
            on_response=None if log is None else log.log_http,
            authorize=admission.authorize_http,
            page=page,
        )
        if options.cors_origin:
            app = CORSMiddleware(
                app, options.cors_origin, allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        interceptors: Sequence[Any] = ()
        if options.opentelemetry:
            app, interceptors = _tracing(app)
        self._grpc = None
        if grpc_port is not None:
            self._grpc = create_grpc(
                self.dataplane,
                options.host,
                grpc_port,
                max_message_bytes=options.max_body_bytes,
                timeout=options.timeout,
                grace=options.grace,
                on_response=None if log is None else log.log_grpc,
                authorize=admission.authorize_grpc
                if options.token_file or options.admin_token_file
                else None,
                interceptors=interceptors,
                tls=tls,
                limits=ConnectionLimits(options.max_connections, options.connection_timeout),
            )
        if not is_loopback(listener) and (exposed := _exposed(options)):
            logger.warning("other machines can reach the server, but %s", exposed)
        http = HttpServer(
            app,
            listener,
            grace=options.grace,
            timeout=options.connection_timeout,
            max_connections=options.max_connections,
            tls=tls,
        )
        self._transports: list[HttpServer | GrpcServer] = [http]
        if self._grpc is not None:
            self._transports.append(self._grpc)
        changed = (lambda: None) if self._file is None else self._file.changed
        self.dataplane.watch(options.poll, changed)
        for work in (give_memory_back_when_idle, measure_formats_when_idle):
            stack.callback(asyncio.create_task(work(self.dataplane)).cancel)
        # Stops the started transports if another one fails to start.
        async with contextlib.AsyncExitStack() as started:
            for transport in self._transports:
                await started.enter_async_context(transport)
            started.pop_all()


def _exposed(options: ServerOptions) -> str:
    """Return a description of missing protections, such as tokens; "" if none is missing."""
    exposed = []
    if options.tls_certificate is None:
        exposed.append("connections are not encrypted (--tls-certificate)")
    if options.token_file is None:
        exposed.append("everyone can request predictions and read metrics (--token-file)")
    if options.admin and options.admin_token_file is None:
        exposed.append("everyone can load and unload models (--admin-token-file)")
    return "; ".join(exposed)


def _close_loaded(loading: asyncio.Task[Dataplane]) -> None:
    """Free the models if the start was cancelled while they were being loaded."""
    if not loading.cancelled() and loading.exception() is None:
        threading.Thread(target=loading.result().close).start()


def create_app(
    dataplane: Dataplane,
    *,
    max_body_bytes: int = ServerOptions.max_body_bytes,
    max_json_bytes: int = ServerOptions.max_json_bytes,
    timeout: float | None = None,
    fast_routes: Sequence[FastRoute] = (),
    routes: Sequence[BaseRoute] = (),
    on_response: Callable[[Scope, int, float], None] | None = None,
    authorize: Callable[[Scope], Reply | None] | None = None,
    page: Page | None = None,
) -> App:
    """Return the ASGI application of all protocols.

    Args:
        dataplane: the data plane.
        max_body_bytes: maximum length of a body; a longer one gets 413.
        max_json_bytes: maximum length of JSON; longer JSON gets 413.
        timeout: maximum duration of a request in seconds; a request can specify a shorter one.
        fast_routes: further routes that bypass Starlette.
        routes: further routes through Starlette.
        on_response: called after each response, with the scope, the status and the duration in
            seconds.
        authorize: returns the response that rejects a request, or None if it is permitted.
        page: the page for browsers, or None for no page.
    """
    answers: Counter[int] = Counter()
    rest = TensorFlowServingRest(dataplane, timeout, max_json_bytes)
    oip = OpenInferenceRest(dataplane, timeout, max_json_bytes)
    home, images = Home(dataplane, answers, page), ImageEndpoint(dataplane, timeout)
    starlette = Starlette(
        routes=[*home.routes(), *rest.routes(), *oip.routes(), *routes],
        exception_handlers=HANDLERS,
    )
    starlette.router.redirect_slashes = (
        False  # a redirection would put the client's header Host into the response
    )
    fast = [*images.fast_routes(), *rest.fast_routes(), *oip.fast_routes(), *fast_routes]
    return App(
        fast,
        starlette,
        max_body_bytes,
        dataplane.budget,
        answers,
        on_response,
        draining=lambda: dataplane.draining,
        authorize=authorize,
        timeout=timeout,
    )


def create_grpc(
    dataplane: Dataplane, host: str, port: int, *, max_message_bytes: int, **options: Any
) -> GrpcServer:
    """Return the gRPC server of all protocols, which serves while its context is entered.

    Args:
        dataplane: the data plane.
        host: address to listen on.
        port: TCP port; 0 picks a free one.
        max_message_bytes: maximum size of a message, and of each array that is made from it.
        options: further arguments of `GrpcServer`.
    """
    services = [
        OpenInferenceGrpc(dataplane).service(),
        *TensorFlowServingGrpc(dataplane, max_message_bytes).services(),
    ]
    names = [service.descriptor.full_name for service in services]
    services.append(health_service(dataplane, names))
    return GrpcServer(
        services,
        host,
        port,
        max_message_bytes=max_message_bytes,
        budget=dataplane.budget,
        **options,
    )


def _grpc_port(options: ServerOptions) -> int | None:
    """Return gRPC's port, or None if gRPC is off; the default is 8500, or 0 if HTTP's is 0."""
    if options.grpc_port == OFF:
        return None
    if options.grpc_port is None:
        return _GRPC_PORT if options.port else 0
    return int(options.grpc_port)


def _tracing(app: ASGIApp) -> tuple[ASGIApp, Sequence[Any]]:
    """Return the application and the gRPC interceptors that create spans for requests."""
    try:
        from keras_cnns_serve.observability import tracing

        provider = tracing.exporting_provider()
        templates = openapi([])["paths"]
        return tracing.traced(app, templates, provider), tracing.grpc_interceptors(provider)
    except ImportError as error:
        raise UsageError(
            "--opentelemetry needs an extra: pip install 'keras-cnns-serve[opentelemetry]' "
            f"({error})"
        ) from error
