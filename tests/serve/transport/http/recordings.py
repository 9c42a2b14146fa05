"""Requests of HTTP clients for Java, Kotlin and C: the bytes that each writes, piece by piece.

A proxy between the client and a running server copied both directions and recorded what the client
sent; every client received the right response. Spring 7.1 was compiled from its sources; Spring
4.3, Netty and Apache HttpClient 4 are Debian 12's packages. A comment that says "from" or "as in" a
file refers to the sources of the named project, whose packages were not available: "as in" the
client that it wraps was configured and called in the same way and recorded; "from" the request was
written by hand.
"""

IMAGE = (  # 8x8 pixels of the grey level 130
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x08\x00\x00\x00\x08\x08\x00\x00\x00\x00\xe1d\xe1W"
    b"\x00\x00\x00\x10IDATx\x9cclb\x80\x00&\x06\x8a\x18\x00&\x96\x00\x92\xa8\x88\xcfW"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)

# Client -> the pieces of its request.
RECORDINGS: dict[str, tuple[bytes, ...]] = {
    # curl 7.88.1 with --http2.
    "curl": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Host: localhost:18700\r\n"
        b"User-Agent: curl/7.88.1\r\n"
        b"Accept: */*\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        b"Content-Length: 73\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"\r\n" + IMAGE,
    ),
    # Ktor's Java engine: Java 25.0.3's HttpClient, as in Ktor's JavaHttpEngine.kt and
    # JavaHttpRequest.kt. The engine's default is HTTP_2 (JavaHttpConfig.kt), so it offers h2c.
    "ktor-java": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Content-Length: 73\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
        b"Upgrade: h2c\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Charset: UTF-8\r\n"
        b"Content-Type: image/png\r\n"
        b"User-Agent: ktor-client\r\n"
        b"\r\n",
        IMAGE,
    ),
    # Ktor's OkHttp engine: OkHttp 4.12.0, as in Ktor's OkHttpEngine.kt.
    "ktor-okhttp": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Charset: UTF-8\r\n"
        b"User-Agent: ktor-client\r\n"
        b"Content-Type: image/png\r\n"
        b"Content-Length: 73\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: Keep-Alive\r\n"
        b"Accept-Encoding: gzip\r\n"
        b"\r\n" + IMAGE,
    ),
    # Ktor's Apache5 engine: Apache HttpClient 5.1.3, as in Ktor's Apache5Engine.kt.
    "ktor-apache5": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Charset: UTF-8\r\n"
        b"User-Agent: ktor-client\r\n"
        b"Content-Length: 73\r\n"
        b"Content-Type: image/png\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: keep-alive\r\n"
        b"\r\n" + IMAGE,
    ),
    # Spring 7.1's JdkClientHttpRequestFactory on Java 25.0.3.
    "spring-jdk": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Content-Length: 73\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
        b"Upgrade: h2c\r\n"
        b"User-Agent: Java-http-client/25.0.3\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Encoding: gzip\r\n"
        b"Accept-Encoding: deflate\r\n"
        b"Content-Type: image/png\r\n"
        b"\r\n",
        IMAGE,
    ),
    # The same with a body of unknown length.
    "spring-jdk-chunked": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
        b"Transfer-encoding: chunked\r\n"
        b"Upgrade: h2c\r\n"
        b"User-Agent: Java-http-client/25.0.3\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Encoding: gzip\r\n"
        b"Accept-Encoding: deflate\r\n"
        b"Content-Type: image/png\r\n"
        b"\r\n",
        b"49\r\n" + IMAGE + b"\r\n",
        b"0\r\n\r\n",
    ),
    # Spring 7.1's SimpleClientHttpRequestFactory on Java 25.0.3.
    "spring-simple": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Accept: application/json\r\n"
        b"Content-Type: image/png\r\n"
        b"User-Agent: Java/25.0.3\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: keep-alive\r\n"
        b"Content-Length: 73\r\n"
        b"\r\n" + IMAGE,
    ),
    # Spring 4.3.30's RestTemplate with its default, SimpleClientHttpRequestFactory, on Java 17.
    "spring4-simple": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Accept: text/plain, */*\r\n"
        b"Content-Type: image/png\r\n"
        b"User-Agent: Java/17.0.15\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: keep-alive\r\n"
        b"Content-Length: 73\r\n"
        b"\r\n",
        IMAGE,
    ),
    # Spring 4.3.30's RestTemplate with HttpComponentsClientHttpRequestFactory (4.5.14).
    "spring4-httpcomponents": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Accept: text/plain, */*\r\n"
        b"Content-Type: image/png\r\n"
        b"Content-Length: 73\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: Keep-Alive\r\n"
        b"User-Agent: Apache-HttpClient/4.5.14 (Java/17.0.15)\r\n"
        b"Accept-Encoding: gzip,deflate\r\n"
        b"\r\n" + IMAGE,
    ),
    # Spring 4.3.30's RestTemplate with Netty4ClientHttpRequestFactory (4.1.48).
    "spring4-netty": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Connection: close\r\n"
        b"Accept: text/plain, */*\r\n"
        b"Content-Type: image/png\r\n"
        b"Content-Length: 73\r\n"
        b"\r\n" + IMAGE,
    ),
    # Spring's WebClient and ReactorClientHttpRequestFactory with HttpProtocol.HTTP11 and H2C:
    # Netty 4.1.48's HttpClientUpgradeHandler and Http2ClientUpgradeCodec, with the pipeline and
    # headers as in reactor-netty's HttpClientConfig.java and HttpClientConnect.java (1.4).
    "reactor-netty": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"user-agent: ReactorNetty/1.4.0\r\n"
        b"host: 127.0.0.1:18700\r\n"
        b"accept: */*\r\n"
        b"content-type: image/png\r\n"
        b"content-length: 73\r\n"
        b"upgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAABAAAAIAAAABAAN_____AAQAAP__AAUAAEAAAAYAACAA\r\n"
        b"connection: HTTP2-Settings,upgrade\r\n"
        b"\r\n" + IMAGE,
    ),
    # The same with a body of unknown length.
    "reactor-netty-chunked": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"user-agent: ReactorNetty/1.4.0\r\n"
        b"host: 127.0.0.1:18700\r\n"
        b"accept: */*\r\n"
        b"content-type: image/png\r\n"
        b"transfer-encoding: chunked\r\n"
        b"upgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAABAAAAIAAAABAAN_____AAQAAP__AAUAAEAAAAYAACAA\r\n"
        b"connection: HTTP2-Settings,upgrade\r\n"
        b"\r\n",
        b"28\r\n" + IMAGE[:40] + b"\r\n21\r\n" + IMAGE[40:] + b"\r\n0\r\n\r\n",
    ),
    # Ktor's CIO engine, from Ktor's cio/utils.kt (writeHeaders, writeBody): it only has HTTP/1.1,
    # and half-closes the connection after the request if `allowHalfClose` is set (Endpoint.kt).
    "ktor-cio": (
        b"POST /v1/models/grey:classify-image HTTP/1.1\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Content-Length: 73\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Charset: UTF-8\r\n"
        b"User-Agent: ktor-client\r\n"
        b"Content-Type: image/png\r\n"
        b"\r\n",
        IMAGE,
    ),
    # Apache HttpClient 5.4 and later, from its RequestUpgrade.java, which Spring's
    # HttpComponentsClientHttpRequestFactory and Ktor's Apache5 engine use: each GET offers TLS.
    "apache-get": (
        b"GET /v1/models/grey HTTP/1.1\r\n"
        b"Accept: application/json\r\n"
        b"Accept-Encoding: gzip, x-gzip, deflate\r\n"
        b"Host: 127.0.0.1:18700\r\n"
        b"Upgrade: TLS/1.2\r\n"
        b"Connection: Upgrade\r\n"
        b"User-Agent: Apache-HttpClient/5.4 (Java/17.0.15)\r\n"
        b"\r\n",
    ),
}
