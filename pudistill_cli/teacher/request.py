"""A question as an endpoint takes it."""

from __future__ import annotations

import json
from typing import Any

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.teacher.answers import Question


def request_body(settings: EndpointTeacher, question: Question) -> bytes:
    """The JSON of a chat request: what the recipe says of it, and nothing else."""
    messages = [{"role": m.role, "content": m.content} for m in question.messages]
    if settings.system is not None and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": settings.system})
    body: dict[str, Any] = {"model": settings.model, "messages": messages}
    body[settings.max_tokens_field] = settings.max_tokens
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.top_p is not None:
        body["top_p"] = settings.top_p
    return json.dumps(body | settings.extra_body).encode()
