"""A server of files on 127.0.0.1 that can be slow, redirect, or end a connection early."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """The answer to a GET request; a HEAD request is answered without the content."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # the announced length, if it is not the content's
    seconds_before: float = 0  # before the status
    seconds_within: float = 0  # in the middle of the content
    chunked: bool = False


@dataclass
class FileServer:
    url: str
    answers: dict[str, Answer] = field(default_factory=dict)  # by path; others are answered by 404
    requests: list[str] = field(default_factory=list)  # the paths of GET and HEAD requests
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append(self.path)
            answer = server.answers.get(self.path, Answer(status=404))
            server.stopped.wait(answer.seconds_before)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                length = len(answer.content) if answer.length is None else answer.length
                self.send_header("Content-Length", str(length))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if self.command == "HEAD":
                return
            half = len(answer.content) // 2
            for part in (answer.content[:half], answer.content[half:]):
                # A chunked answer ends without the empty chunk, as if the connection were lost.
                frame = b"%x\r\n%b\r\n" % (len(part), part) if answer.chunked else part
                self.wfile.write(frame)
                self.wfile.flush()
                server.stopped.wait(answer.seconds_within)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server expects

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up
        server = FileServer(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            http.shutdown()
            thread.join()
