"""A teacher on loopback that counts what it is asked, and answers with the quickstart's anchors."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from benchmarks.attacks.small_run import QUICKSTART

PROMPT_TOKENS = 20


class CountingTeacher:
    """An OpenAI-compatible server; `asked` holds every chat request's last message, in order of arrival."""

    def __init__(self, seconds: float = 0.02, longest: int = 0) -> None:
        """An answer takes `seconds`, and is said to have `longest` tokens, where that is given."""
        self.asked: list[str] = []
        self.tokens = 0
        """Tokens that the server has reported, prompts and answers."""
        self._seconds, self._longest = seconds, longest
        self._lock = threading.Lock()
        lines = (QUICKSTART / "anchors.jsonl").read_text(encoding="utf-8").splitlines()
        self._answers = {r["prompt"]: r["answer"] for r in map(json.loads, lines)}
        self._http = _Quiet(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def settings(self, concurrency: int, **more: Any) -> dict[str, Any]:
        """The recipe's section that asks this server."""
        url = f"http://127.0.0.1:{self._http.server_port}/v1"
        return {"kind": "openai", "model": "counting", "base_url": url, "concurrency": concurrency, **more}

    def forget(self) -> None:
        """Count from nothing."""
        with self._lock:
            self.asked.clear()
            self.tokens = 0

    @property
    def repeated(self) -> int:
        """Questions that came more often than once, each time after the first."""
        return sum(Counter(self.asked).values()) - len(set(self.asked))

    def __enter__(self) -> CountingTeacher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, prompt: str) -> dict[str, Any]:
        text = self._answers.get(prompt, '{"do":"none"}')
        tokens = self._longest or len(text) // 3 + 1
        with self._lock:
            self.asked.append(prompt)
            self.tokens += PROMPT_TOKENS + tokens
        time.sleep(self._seconds)
        message = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"choices": [message], "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send({"object": "list", "data": [{"id": "counting", "object": "model"}]})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                content = self.rfile.read(length)
                if len(content) == length:  # else the client was killed
                    self._send(outer._answer(json.loads(content)["messages"][-1]["content"]))

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _send(self, reply: dict[str, Any]) -> None:
                data = json.dumps(reply).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except ConnectionError:
                    self.close_connection = True  # the client was killed

        return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections break here because clients are killed."""
