"""Any OpenAI-compatible endpoint as the teacher: concurrent, with retries and limits."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import PudistillError, TeacherError
from pudistill_cli.redaction import redacted_teacher, redacted_url
from pudistill_cli.teacher.answers import Answer, Question, Questions
from pudistill_cli.teacher.api_key import read_key, redact
from pudistill_cli.teacher.budget import Budget
from pudistill_cli.teacher.environment import as_sent
from pudistill_cli.teacher.http_client import LONGEST_REPLY, Route, fetched, route_to, tls_problem
from pudistill_cli.teacher.reply import Failed, Outcome, Retry, Stop, read_reply
from pudistill_cli.teacher.request import request_body
from pudistill_cli.terminal.stop_signals import deferred

BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 600.0
MAX_CONSECUTIVE_FAILURES = 10
"""So many prompts in a row that used up all their retries mean that the endpoint is broken."""
ON_THEIR_WAY = 5.0
"""Seconds that answers have to arrive once the process is asked to end; `docker stop` waits for ten."""
RESUME_HINT = "Every answer so far is kept: type the same command again, and only the missing prompts are asked."
ROOM_HINT = "No question has room in it. Raise the limit, or lower teacher.max_tokens, the longest answer."


class Endpoint:
    """Asks `settings.model` at `settings.base_url`; `backoff` is the first wait between tries, in seconds."""

    def __init__(self, settings: EndpointTeacher, backoff: float = BACKOFF) -> None:
        self.name = f"{settings.model} at {redacted_url(settings.base_url)}"
        self.notices: list[str] = []
        self.max_tokens: int | None = settings.max_tokens
        self.rereadable = False
        self._settings = settings
        self._backoff = backoff
        self._budget = Budget(settings)

    def identity(self) -> str:
        """What an answer depends on: address, model, system message, sampling; not limits or the key. No secret."""
        fields = {"kind", "base_url", "model", "system", "temperature", "top_p", "max_tokens", "extra_body"}
        return json.dumps(redacted_teacher(self._settings.model_dump(include=fields)), sort_keys=True)

    def ask(self, questions: Questions) -> Iterator[tuple[Question, Answer]]:
        """Yield answers as they arrive. Requests make progress only while the caller waits for one.

        Raises:
            TeacherError: no key, a key that is not accepted, an unknown model, an endpoint that cannot be
                reached or fails prompt after prompt, a proxy or certificates that are none, or a limit of the recipe.
        """
        sent = as_sent(self._settings)
        route = route_to(sent.settings.base_url)
        # The key is in no variable here: a traceback may show those.
        asking = _Asking(
            sent.settings, read_key(self._settings.api_key_env), route, questions, self._budget, self._backoff
        )
        with (
            sent.hidden_in_log("httpx"),  # whose lines hold the whole address
            asyncio.Runner() as runner,
            deferred(lambda: runner.get_loop().call_soon_threadsafe(asking.finish)),
        ):
            loop = runner.get_loop()
            task = loop.create_task(asking.run())
            try:
                while (answered := runner.run(asking.arrived.get())) is not None:
                    yield answered.question, sent.hide_in(answered.answer)
                    answered.is_kept.set()
            except KeyboardInterrupt:
                while not asking.arrived.empty() and (answered := asking.arrived.get_nowait()) is not None:
                    yield answered.question, sent.hide_in(answered.answer)  # paid for already
                raise
            finally:
                asking.cancel()
                loop.run_until_complete(task)
        if asking.error is not None:
            raise asking.error
        if asking.stop is not None:
            raise TeacherError(
                f"{sent.hide(asking.stop.message)} {asking.answered} of {len(questions)} prompts were answered before.",
                sent.hide(asking.stop.hint),
            )


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer on its way to the caller, and whether it has been there."""

    question: Question
    answer: Answer
    is_kept: asyncio.Event


class _Asking:
    """One `ask`: workers that share the questions, the limits and the reason to stop."""

    def __init__(
        self,
        settings: EndpointTeacher,
        key: str | None,
        route: Route,
        questions: Questions,
        budget: Budget,
        backoff: float,
    ) -> None:
        self.arrived: asyncio.Queue[_Answered | None] = asyncio.Queue()
        """None comes last."""
        self.answered = 0
        self.stop: Stop | None = None
        self.error: PudistillError | None = None
        self._settings = settings
        self._key = key
        self._route = route
        self._questions = iter(questions)
        self._backoff = backoff
        self._budget = budget
        self._beyond: str | None = None  # the limit in which some question had no place
        self._settled = asyncio.Event()
        self._url = f"{settings.base_url}/chat/completions"
        self._failures = 0  # in a row
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        # Its debug lines hold whole response headers, in which an endpoint may repeat the key.
        logging.getLogger("httpcore").setLevel(logging.INFO)
        headers = {"Content-Type": "application/json", "User-Agent": "pudistill"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            async with (
                self._route.client(headers, self._settings.timeout) as client,
                asyncio.TaskGroup() as group,
            ):
                self._workers = [group.create_task(self._worker(client)) for _ in range(self._settings.concurrency)]
            if self._beyond is not None:
                self._stop_at(self._beyond)
        finally:
            self.arrived.put_nowait(None)

    def finish(self) -> None:
        """Ask nothing more, and give what is on its way, which is paid for, a moment to arrive."""
        self._stopped.set()
        self._wake()
        asyncio.get_running_loop().call_later(ON_THEIR_WAY, self.cancel)

    def cancel(self) -> None:
        """Give up what is under way. `run` itself is not cancelled: it still closes the connections."""
        self._stopped.set()
        for worker in self._workers:
            worker.cancel()

    async def _worker(self, client: httpx.AsyncClient) -> None:
        while (question := self._next()) is not None:
            answer = await self._answer(client, question)
            if answer is not None:
                self.answered += answer.status != "error"
                answered = _Answered(question, answer, asyncio.Event())
                self.arrived.put_nowait(answered)
                await answered.is_kept.wait()  # so that a kill costs no more answers than there are workers

    def _next(self) -> Question | None:
        """The next question, unless asking has been stopped; an error there lets what is on its way arrive."""
        try:
            return None if self._stopped.is_set() else next(self._questions, None)
        except PudistillError as error:  # a cache that cannot be written
            self.error = error
            self._stopped.set()
            return None

    async def _answer(self, client: httpx.AsyncClient, question: Question) -> Answer | None:
        """Ask until there is an answer or no try is left; None when asking has been stopped, or a limit is too low."""
        last = Retry("")
        for attempt in range(self._settings.retries + 1):
            if attempt:
                await self._pause(last.wait if last.wait is not None else self._backoff_seconds(attempt))
            if not await self._has_room(question):
                return None
            match await self._paid_request(client, question):
                case Answer() as answer:
                    self._failures = 0
                    return answer
                case Stop() as stop:
                    return self._stop_because(stop)
                case Failed(detail):
                    return Answer.error(detail)
                case Retry() as last if last.wait is not None and last.wait > LONGEST_RETRY_AFTER:
                    wait = f"{last.wait:,.0f} s"
                    return self._stop_because(Stop(f"{self._url} asks to wait {wait} ({last.detail}).", RESUME_HINT))
                case Retry() as last:
                    pass
        return self._give_up(last)

    async def _paid_request(self, client: httpx.AsyncClient, question: Question) -> Outcome:
        held = self._budget.hold(question)
        outcome: Outcome = Retry("", charged=True)
        try:
            outcome = await self._request(client, question)
        finally:
            match outcome:
                case Answer() as answer:
                    self._budget.settle(held, question, answer)
                case Retry(partial=partial, charged=charged):
                    self._budget.settle(held, question, partial, unknown=charged)
                case _:
                    self._budget.settle(held, question, None)
            self._wake()
        return outcome

    async def _request(self, client: httpx.AsyncClient, question: Question) -> Outcome:
        try:
            async with asyncio.timeout(self._settings.timeout):
                response, content = await fetched(client, "POST", self._url, request_body(self._settings, question))
        except TimeoutError:
            return Retry(f"no answer within {self._settings.timeout:g} s", charged=True)
        except httpx.InvalidURL as error:
            return Stop(f"{self._url} is no address: {error}.", "Correct teacher.base_url in the recipe.")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if problem := tls_problem(error):
                return Stop(f"{self._url} {problem[0]}.", problem[1])
            return Retry(str(error) or "connection timed out", unreachable=True)
        except httpx.RequestError as error:
            words = redact(str(error), self._key) or type(error).__name__
            return Retry(f"the connection broke: {words}", charged=True)
        if content is None:
            return Retry(f"its reply is longer than {LONGEST_REPLY // 2**20} MiB", charged=True)
        headers = {name: redact(value, self._key) for name, value in response.headers.items()}
        body = redact(content.decode("utf-8", "replace"), self._key)
        s = self._settings
        return read_reply(response.status_code, headers, body, s.model, self._url, s.max_tokens)

    async def _has_room(self, question: Question) -> bool:
        """Whether the question may be sent, once what is on its way has given back what it does not use."""
        while not self._stopped.is_set():
            lacking = self._budget.lacking(question)
            if lacking is None:
                return True
            if not self._budget.in_flight:
                if self._budget.lacking() is None:  # a shorter question may have room
                    self._beyond = lacking
                else:
                    self._stop_at(lacking)
                return False
            await self._settled.wait()
        return False

    def _stop_at(self, limit: str) -> None:
        most = self._budget.most()
        another = "" if limit.startswith("max_calls") else f", and the next may take {most.tokens:,} tokens or more"
        hint = f"{RESUME_HINT} Raise the limit first." if self._budget.calls else ROOM_HINT
        self._stop_because(Stop(f"The limit teacher.{limit} is reached: {self._budget.in_words()}{another}.", hint))

    def _wake(self) -> None:
        """Let those look again that wait for room."""
        self._settled.set()
        self._settled = asyncio.Event()

    def _give_up(self, last: Retry) -> Answer | None:
        tries = "after 1 try" if not self._settings.retries else f"after {self._settings.retries + 1} tries"
        if last.unreachable:
            hint = f"Start the server, or check teacher.base_url and the network{self._route.hint}. {RESUME_HINT}"
            return self._stop_because(Stop(f"{self._url} cannot be reached {tries}: {last.detail}.", hint))
        self._failures += 1
        if self._failures >= MAX_CONSECUTIVE_FAILURES:
            failures = f"{self._failures} prompts in a row got no answer from {self._url}, each {tries}"
            return self._stop_because(Stop(f"{failures}; the last: {last.detail}.", RESUME_HINT))
        return Answer.error(f"{last.detail} ({tries})")

    def _stop_because(self, stop: Stop) -> None:
        self.stop = self.stop or stop
        self._stopped.set()
        self._wake()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than there is something to wait for."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return

    def _backoff_seconds(self, attempt: int) -> float:
        """Exponential backoff; half is jitter, so that what failed together does not return together."""
        longest = min(self._backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
        return longest * random.uniform(0.5, 1.0)
