"""Any OpenAI-compatible endpoint as the teacher: concurrent, with retries and limits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.teacher.answers import Answer, Question
from pudistill_cli.teacher.budget import Budget
from pudistill_cli.teacher.reply import Again, Failed, Outcome, Stop, read_reply

BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 600.0
CONNECT_TIMEOUT = 10.0
PATIENCE = 10
"""So many prompts in a row that used up all their retries mean that the endpoint is broken."""
SHORTEST_SECRET = 12
"""Shorter keys are placeholders ("EMPTY", "not-needed") and may be words of an answer."""
GO_ON = "Every answer so far is kept: type the same command again, and only the missing prompts are asked."


class Endpoint:
    """Asks `settings.model` at `settings.base_url`; `backoff` is the first wait between tries, in seconds."""

    def __init__(self, settings: EndpointTeacher, backoff: float = BACKOFF) -> None:
        self.name = f"{settings.model} at {settings.base_url}"
        self.notices: list[str] = []
        self.rereadable = False
        self._settings = settings
        self._backoff = backoff

    def identity(self) -> str:
        """What an answer depends on: address, model, system message, sampling; not limits or the key."""
        fields = {"kind", "base_url", "model", "system", "temperature", "top_p", "max_tokens", "extra_body"}
        return json.dumps(self._settings.model_dump(include=fields), sort_keys=True)

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as they arrive. Requests make progress only while the caller waits for one.

        Raises:
            TeacherError: no key, a key that is not accepted, an unknown model, an endpoint that cannot be
                reached or fails prompt after prompt, or a limit of the recipe.
        """
        asking = _Asking(self._settings, read_key(self._settings.api_key_env), questions, self._backoff)
        with asyncio.Runner() as runner:
            work = runner.get_loop().create_task(asking.work())
            try:
                while (answered := runner.run(asking.arrived.get())) is not None:
                    yield answered
            except KeyboardInterrupt:
                while not asking.arrived.empty() and (answered := asking.arrived.get_nowait()) is not None:
                    yield answered  # paid for already
                raise
            finally:
                asking.leave()
                runner.get_loop().run_until_complete(work)
        if asking.stop is not None:
            raise TeacherError(
                f"{asking.stop.message} {asking.answered} of {len(questions)} prompts were answered before.",
                asking.stop.hint,
            )


class _Asking:
    """One `ask`: workers that share the questions, the limits and the reason to stop."""

    def __init__(
        self, settings: EndpointTeacher, key: str | None, questions: Sequence[Question], backoff: float
    ) -> None:
        self.arrived: asyncio.Queue[tuple[Question, Answer] | None] = asyncio.Queue()
        """None comes last."""
        self.answered = 0
        self.stop: Stop | None = None
        self._settings = settings
        self._key = key
        self._questions = iter(questions)
        self._backoff = backoff
        self._budget = Budget(settings)
        self._url = f"{settings.base_url}/chat/completions"
        self._failures = 0  # in a row
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()

    async def work(self) -> None:
        # Its debug lines hold whole response headers, in which an endpoint may repeat the key.
        logging.getLogger("httpcore").setLevel(logging.INFO)
        headers = {"Content-Type": "application/json", "User-Agent": "pudistill"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        # The whole request has its time limit in `_request`; a machine that is not there is noticed sooner.
        timeout = httpx.Timeout(None, connect=min(CONNECT_TIMEOUT, self._settings.timeout))
        try:
            async with (
                httpx.AsyncClient(headers=headers, timeout=timeout) as client,
                asyncio.TaskGroup() as group,
            ):
                self._workers = [group.create_task(self._worker(client)) for _ in range(self._settings.concurrency)]
        finally:
            self.arrived.put_nowait(None)

    def leave(self) -> None:
        """Give up what is under way. `work` itself is not cancelled: it still closes the connections."""
        self._stopped.set()
        for worker in self._workers:
            worker.cancel()

    async def _worker(self, client: httpx.AsyncClient) -> None:
        for question in self._questions:
            answer = await self._answer(client, question)
            if answer is None:
                return
            self.answered += answer.status != "error"
            self.arrived.put_nowait((question, answer))

    async def _answer(self, client: httpx.AsyncClient, question: Question) -> Answer | None:
        """Ask until there is an answer or no try is left; None when asking has been stopped."""
        last = Again("")
        for attempt in range(self._settings.retries + 1):
            if attempt:
                await self._pause(last.wait if last.wait is not None else self._wait(attempt))
            if not self._may_call():
                return None
            match await self._request(client, question):
                case Answer() as answer:
                    self._failures = 0
                    self._budget.spend(question, answer)
                    return answer
                case Stop() as stop:
                    return self._stop_for(stop)
                case Failed(detail):
                    return Answer.error(detail)
                case Again() as last if last.wait is not None and last.wait > LONGEST_RETRY_AFTER:
                    wait = f"{last.wait:,.0f} s"
                    return self._stop_for(Stop(f"{self._url} asks to wait {wait} ({last.detail}).", GO_ON))
                case Again() as last:
                    pass
        return self._give_up(last)

    async def _request(self, client: httpx.AsyncClient, question: Question) -> Outcome:
        self._budget.call()
        try:
            async with asyncio.timeout(self._settings.timeout):
                response = await client.post(self._url, content=self._body(question))
        except TimeoutError:
            return Again(f"no answer within {self._settings.timeout:g} s")
        except httpx.InvalidURL as error:
            return Stop(f"{self._url} is no address: {error}.", "Correct teacher.base_url in the recipe.")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Again(str(error) or "connection timed out", unreachable=True)
        except httpx.RequestError as error:
            return Again(f"the connection broke: {self._hide(str(error)) or type(error).__name__}")
        headers = {name: self._hide(value) for name, value in response.headers.items()}
        body = self._hide(response.content.decode("utf-8", "replace"))
        return read_reply(response.status_code, headers, body, self._settings.model, self._url)

    def _body(self, question: Question) -> bytes:
        s = self._settings
        messages = [{"role": m.role, "content": m.content} for m in question.messages]
        if s.system is not None and (not messages or messages[0]["role"] != "system"):
            messages.insert(0, {"role": "system", "content": s.system})
        body: dict[str, Any] = {"model": s.model, "messages": messages, s.max_tokens_field: s.max_tokens}
        if s.temperature is not None:
            body["temperature"] = s.temperature
        if s.top_p is not None:
            body["top_p"] = s.top_p
        return json.dumps(body | s.extra_body).encode()

    def _may_call(self) -> bool:
        if self.stop is None and (limit := self._budget.reached()) is not None:
            self._stop_for(Stop(f"The limit teacher.{limit} is reached.", f"{GO_ON} Raise the limit first."))
        return not self._stopped.is_set()

    def _give_up(self, last: Again) -> Answer | None:
        tries = f"after {self._settings.retries + 1} tries"
        if last.unreachable:
            hint = f"Start the server, or check teacher.base_url and the network. {GO_ON}"
            return self._stop_for(Stop(f"{self._url} cannot be reached {tries}: {last.detail}.", hint))
        self._failures += 1
        if self._failures >= PATIENCE:
            failures = f"{self._failures} prompts in a row got no answer from {self._url}, each {tries}"
            return self._stop_for(Stop(f"{failures}; the last: {last.detail}.", GO_ON))
        return Answer.error(f"{last.detail} ({tries})")

    def _stop_for(self, stop: Stop) -> None:
        self.stop = self.stop or stop
        self._stopped.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than there is something to wait for."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return

    def _wait(self, attempt: int) -> float:
        """Exponential backoff; half is jitter, so that what failed together does not return together."""
        longest = min(self._backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
        return longest * random.uniform(0.5, 1.0)

    def _hide(self, text: str) -> str:
        """The endpoint's words without the key, in case it repeats it."""
        if self._key is None or len(self._key) < SHORTEST_SECRET:
            return text
        escaped = self._key.replace("/", "\\/")  # as some JSON writers put it
        return text.replace(self._key, "[key]").replace(escaped, "[key]")


def read_key(variable: str | None) -> str | None:
    """The key in the environment variable, read when it is needed and kept nowhere.

    Raises:
        TeacherError: naming the variable, never its value.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(
            f"The environment variable {variable}, which teacher.api_key_env names, is not set.",
            f"export {variable}=... , or set teacher.api_key_env to null if the endpoint needs no key.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        del key  # a traceback that shows variables must not show this one
        raise TeacherError(
            f"The environment variable {variable} holds a space or another character that no key has.",
            f"Set {variable} again, to the key alone.",
        )
    return key
