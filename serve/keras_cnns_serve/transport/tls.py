"""TLS for HTTP and gRPC; the files of certificates and keys are read again when they change."""

import ssl
from pathlib import Path
from typing import Any

import grpc

from keras_cnns_serve.core.watched_files import WatchedFiles
from keras_cnns_serve.errors import ConfigError, one_line


class Tls:
    """The server's certificate and key, and the authorities of client certificates.

    Args:
        certificate: a PEM file with the server's certificate and its chain.
        key: a PEM file with the private key of the certificate.
        client_ca: a PEM file with the authorities that sign client certificates; None: clients
            need no certificate.

    Raises:
        ConfigError: a file cannot be read, or the key does not match the certificate.
    """

    def __init__(
        self, certificate: Path | str, key: Path | str, client_ca: Path | str | None = None
    ) -> None:
        self._certificate, self._key = Path(certificate), Path(key)
        self._client_ca = None if client_ca is None else Path(client_ca)
        self._paths = [path for path in (self._certificate, self._key, self._client_ca) if path]
        self._files = WatchedFiles(self._paths, self._read)

    def context(self) -> ssl.SSLContext:
        """Return a server context whose connections use the current files."""

        def use_current(connection: Any, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = self._files.current()[0]

        context, _ = self._read()
        context.sni_callback = use_current  # OpenSSL also calls it for clients without SNI
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return server credentials that use the current files."""
        used = self._files.current()[1]

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Return the configuration if it has changed, else None.

            grpcio calls this function for each connection. If the result is not None, grpcio
            replaces the state of its handshakes, which other threads may be using. If the
            configuration were returned every time, simultaneous handshakes would crash the process.
            """
            nonlocal used
            current = self._files.current()[1]
            if current is used:
                return None
            used = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            used, changed, require_client_authentication=self._client_ca is not None
        )

    def _read(self) -> tuple[ssl.SSLContext, grpc.ServerCertificateConfiguration]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without this argument, OpenSSL would ask for the password of the key on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(
                f"{self._certificate} and {self._key} are not a certificate and its private key in "
                f"PEM; the key must have no password: {one_line(error)}"
            ) from error
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._client_ca)
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(
                    f"{self._client_ca} is not a certificate in PEM: {one_line(error)}"
                ) from error
        try:
            certificate, key, *client_ca = (path.read_bytes() for path in self._paths)
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
        configuration = grpc.ssl_server_certificate_configuration(
            [(key, certificate)], client_ca[0] if client_ca else None
        )
        return context, configuration
