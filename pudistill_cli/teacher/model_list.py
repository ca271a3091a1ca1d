"""An endpoint is asked for its models before anything is paid for: `GET {base_url}/models`, and nothing else."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

import httpx

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import TeacherError
from pudistill_cli.files.input_lines import listed
from pudistill_cli.teacher.api_key import read_key, redact
from pudistill_cli.teacher.cleaning import storable
from pudistill_cli.teacher.environment import as_sent
from pudistill_cli.teacher.http_client import fetched, route_to, tls_problem
from pudistill_cli.teacher.reply import Stop, refusal_of

TIMEOUT = 10.0
"""Seconds; what takes longer says nothing."""
TRIES = 3
PAUSE = 1.0
_SHOWN, _LONGEST = 3, 80
_NAMES = ("id", "name", "model")


def check_models(settings: EndpointTeacher, pause: float = PAUSE) -> str | None:
    """See that the endpoint is there, takes the key and has the model; what it says of the model, for a person.

    A server without such a list is as good as any: many have none, and some answer to names that they do not list.

    Raises:
        TeacherError: no key, one that is not accepted, or an endpoint that cannot be reached.
    """
    sent = as_sent(settings)
    try:
        with sent.hidden_in_log("httpx"):  # whose lines hold the whole address
            said = _checked(sent.settings, pause)
    except TeacherError as error:
        raise TeacherError(sent.hide(error.message), sent.hide(error.hint)) from None
    return said and sent.hide(said)


def _checked(settings: EndpointTeacher, pause: float) -> str | None:
    url, route = f"{settings.base_url}/models", route_to(settings.base_url)
    detail = ""
    for attempt in range(min(settings.retries + 1, TRIES)):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        match asyncio.run(_get(settings, url)):
            case httpx.InvalidURL() as error:
                raise TeacherError(f"{url} is no address: {error}.", "Correct teacher.base_url in the recipe.")
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() as error:
                if problem := tls_problem(error):
                    raise TeacherError(f"{url} {problem[0]}.", problem[1])
                detail = str(error) or "connection timed out"
            case (int(status), str(body)):
                if stop := _refused(status, body, settings.model, url):
                    raise TeacherError(stop.message, stop.hint)
                return _said_of_model(settings, _listed(body)) if status == 200 else None
            case _:
                return None
    raise TeacherError(
        f"{settings.base_url} cannot be reached: {detail}.",
        f"Start the server, or check teacher.base_url and the network{route.hint}.",
    )


async def _get(settings: EndpointTeacher, url: str) -> tuple[int, str] | Exception:
    """Status and body, without the key; errors are returned, since a traceback may show the variables here."""
    key = read_key(settings.api_key_env)
    headers = {"User-Agent": "pudistill"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    try:
        async with asyncio.timeout(TIMEOUT), route_to(settings.base_url).client(headers, TIMEOUT / 2) as client:
            response, content = await fetched(client, "GET", url)
    except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
        return error.with_traceback(None)
    return response.status_code, redact((content or b"").decode("utf-8", "replace"), key)


def _refused(status: int, body: str, model: str, url: str) -> Stop | None:
    """A key that is none is none for questions too.

    One that may ask questions alone is told apart by its scopes, and a proxy that lets questions through alone, by its
    web page.
    """
    stop = refusal_of(status, body, model, url) if status in (401, 403) else None
    return None if "scope" in body.lower() or (status == 403 and not body.lstrip().startswith("{")) else stop


def _listed(body: str) -> dict[str, dict[str, Any]]:
    """The models by name, in whatever form of the list, with what is said of each; none where it is something else."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        value = fields.get("data") or fields.get("models")
    items = cast("list[Any]", value) if isinstance(value, list) else []
    models = [cast("dict[str, Any]", item) if isinstance(item, dict) else {"id": item} for item in items]
    return {name: model for model in models if (name := _name(model))}


def _name(model: dict[str, Any]) -> str:
    return next((storable(model[name]) for name in _NAMES if isinstance(model.get(name), str)), "")


def _said_of_model(settings: EndpointTeacher, models: dict[str, dict[str, Any]]) -> str | None:
    """A word on a model that is not in a list that names models, or has no room for the longest answer."""
    model = settings.model
    if not models:
        return None
    found = next((n for n in models if model == n or model in _other_names(n) or n in _other_names(model)), None)
    if found is None:
        shown = listed([name[:_LONGEST] for name in models], ", ", _SHOWN)
        return (
            f"{settings.base_url} does not list the model {model!r}{did_you_mean(model, models)}; it lists {shown}. It "
            "is asked all the same, since some endpoints answer to names that they do not list."
        )
    room = models[found].get("max_model_len")  # vLLM's
    if type(room) is int and settings.max_tokens >= room:
        return (
            f"{model} at {settings.base_url} takes {room:,} tokens, prompt and answer together, and teacher.max_tokens "
            f"is {settings.max_tokens:,}: it may refuse every question. Lower teacher.max_tokens."
        )
    return None


def _other_names(name: str) -> tuple[str, ...]:
    """What stands for the same model: without a folder before it (Gemini), or a variant behind it (Ollama)."""
    return name.removeprefix("models/"), name.removesuffix(":latest"), name.partition(":")[0]
