"""A real HTTP server on loopback whose answers a test scripts, request by request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    number: int
    """1 for the first request the server saw."""
    path: str
    headers: dict[str, str]
    body: dict

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection instead of answering."""


Behaviour = Callable[[Request], Response]
DROP = Response(drop=True)


def says(text: object, finish: object = "stop", usage: tuple[int, int] | None = (7, 5), **message) -> Response:
    """A chat completion."""
    reply: dict = {"choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]}
    if usage is not None:
        reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Response(body=json.dumps(reply).encode())


def fails(status: int, message: str = "no", headers: dict[str, str] | None = None, **fields: str) -> Response:
    """An error in OpenAI's form."""
    return Response(status, json.dumps({"error": {"message": message, **fields}}).encode(), headers or {})


class Server:
    """Runs `behaviour` for each request, in a thread of its own."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.models: Response = fails(404)
        """What `GET /models` gets: most servers of the tests have no such route."""
        self.lists: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each GET."""
        self.released = threading.Event()
        """Set when the test is over, so that a behaviour may hang until then."""
        self._at_once = 0
        self._lock = threading.Lock()
        self._behaviour = behaviour
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            def do_GET(self) -> None:
                outer._list(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._http.shutdown()
            thread.join()
            self._http.socket.close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"])
        content = handler.rfile.read(length)
        if len(content) < length:
            return  # the client has left
        body = json.loads(content)
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            request = Request(len(self.requests) + 1, handler.path, headers, body)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        response = self._behaviour(request)
        with self._lock:
            self._at_once -= 1
        if not self.released.is_set():
            self._send(handler, response)

    def _list(self, handler: BaseHTTPRequestHandler) -> None:
        self.lists.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
        self._send(handler, self.models)

    def _send(self, handler: BaseHTTPRequestHandler, response: Response) -> None:
        handler.close_connection = response.drop
        if response.drop:
            return
        handler.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            handler.send_header(name, value)
        try:
            handler.end_headers()
            handler.wfile.write(response.body)
        except ConnectionError:
            handler.close_connection = True  # the client has left
