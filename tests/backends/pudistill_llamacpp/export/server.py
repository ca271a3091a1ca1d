"""Upstream's llama-server on a file, asked over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen


@dataclass(frozen=True)
class Server:
    url: str

    def post(self, path: str, **body: Any) -> Any:
        request = Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def applied(self, messages: list[dict[str, str]], **variables: Any) -> str:
        """The prompt that its own Jinja engine renders."""
        return self.post("/apply-template", messages=messages, chat_template_kwargs=variables)["prompt"]


@contextmanager
def serving(program: Path, model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Start the server on a free port and end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--jinja", "-t", "1", "-np", "1", *options]
    with log.open("w") as out, subprocess.Popen([str(program), *words], stdout=out, stderr=out) as process:
        try:
            yield _ready(f"http://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()


def _ready(url: str, process: subprocess.Popen[bytes], log: Path) -> Server:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"{url}/health", timeout=5):
                return Server(url)
        except (URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"llama-server does not answer: {log.read_text()}")
