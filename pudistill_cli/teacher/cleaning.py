"""From a teacher's words to an answer: reasoning stripped; refused, empty and cut-off ones told apart."""

from __future__ import annotations

import re
from dataclasses import replace

from pudistill_cli.teacher.answers import Answer, Status
from pudistill_cli.teacher.finish_reasons import ending
from pudistill_cli.teacher.reasoning import strip_end_tokens, strip_reasoning

OPENS_AS_A_REFUSAL = "it opens as a refusal"
CALLS_TOOL = "it calls a tool"
BEYOND_THE_LIMIT = "the token limit is not on its reasoning"

# How models decline in English. Conservative: an opening must name what is declined, because "I'm sorry, but
# I can't" also begins a good letter. Compared with the answer's start, lower case, apostrophes made plain.
DECLINING = (
    "assist with",
    "help with that",
    "help with this",
    "help you with that",
    "help you with this",
    "comply with",
    "fulfill that request",
    "fulfill this request",
    "fulfill your request",
    "fulfil that request",
    "fulfil this request",
    "fulfil your request",
    "answer that",
    "answer this question",
    "discuss that",
    "discuss this topic",
    "engage with that",
    "engage in that",
    "provide that",
    "provide assistance with",
)
REFUSAL = re.compile(
    r"(as an ai( language)?( model| assistant)?, )?"
    r"((i'm|i am) (very |so |really )?sorry, (but )?|sorry, (but )?|i apologi[sz]e, but |unfortunately, )?"
    r"(as an ai( language)?( model| assistant)?, )?"
    r"(i (can't|cannot|can not|won't|will not|am unable to|am not able to)|i'm (unable to|not able to))"
)


def clean(
    text: str,
    finish_reason: str,
    *,
    reasoning: str = "",
    refusal: str = "",
    calls_tool: bool = False,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
    reasoning_tokens: int = 0,
    max_tokens: int | None = None,
) -> Answer:
    """Strip reasoning and end-of-turn tokens, and give the answer its status: "ok" only where its reason is an end.

    `reasoning` and `refusal` are the fields in which some endpoints put these apart from the text. A cut-off
    answer is "truncated" even when nothing is left of it; the endpoint's own word on a refusal goes first. One of
    `max_tokens` tokens, where that is given, was cut off whatever its reason says; one that ended for an unknown
    reason may have been, and counts as that. Where there are more tokens, `reasoning_tokens` of them reasoning, the
    limit is on the others. Status "error" is for answers that broke off: ask again.
    """
    text, finish_reason = storable(text), storable(finish_reason)
    answer = strip_end_tokens(strip_reasoning(text))
    status, detail = _ended(finish_reason, refusal, calls_tool)
    if status == "ok" and max_tokens is not None and completion_tokens >= max_tokens:
        if completion_tokens > max_tokens > completion_tokens - reasoning_tokens:
            detail = BEYOND_THE_LIMIT
        else:
            status, detail = "truncated", f"cut off at {max_tokens:,} tokens: raise the teacher's token limit"
    if status == "ok":
        status, detail = _said(answer, reasoning or text, detail)
    return Answer(
        text=answer,
        status=status,
        finish_reason=finish_reason,
        reasoning_stripped=answer.strip() != text.strip() or bool(reasoning.strip()),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        detail=detail,
    )


def clean_again(answer: Answer, max_tokens: int | None) -> Answer:
    """An answer that was kept, perhaps by an older version, as the rules are now; the endpoint's refusals stay."""
    if answer.status == "refused" and answer.detail != OPENS_AS_A_REFUSAL:
        return answer
    now = clean(
        answer.text,
        answer.finish_reason,
        calls_tool=answer.detail == CALLS_TOOL,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        max_tokens=None if answer.detail == BEYOND_THE_LIMIT else max_tokens,
    )
    if now.status == answer.status:
        now = replace(now, detail=answer.detail)
    return replace(now, reasoning_stripped=now.reasoning_stripped or answer.reasoning_stripped)


def storable(text: str) -> str:
    """The text without what no file could hold: half a character, where a pair was cut in two, and NULs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def is_refusal(text: str) -> bool:
    """Whether the answer opens as a refusal, in English."""
    start = text[:200].replace("’", "'").lower()
    opening = REFUSAL.match(start)
    return opening is not None and start[opening.end() :].lstrip().startswith(DECLINING)


def _ended(finish_reason: str, refusal: str, calls_tool: bool) -> tuple[Status, str]:
    if refusal.strip():
        return "refused", "the endpoint marked it as a refusal"
    match ending(finish_reason):
        case "filtered":
            return "refused", f"the endpoint's filter ({finish_reason})"
        case "cut off":
            return "truncated", f"cut off ({finish_reason}): raise the teacher's token limit"
        case "tool call":
            return "empty", CALLS_TOOL
        case "error":
            return "error", f"it broke off ({finish_reason})"
        case "unknown":
            return "truncated", f"unknown finish reason {finish_reason!r}"
        case "whole":
            return ("empty", CALLS_TOOL) if calls_tool else ("ok", "")


def _said(answer: str, all_of_it: str, detail: str) -> tuple[Status, str]:
    if not answer.strip():
        return "empty", "all of it is reasoning, by its tags or the endpoint's parser" if all_of_it.strip() else ""
    if is_refusal(answer.lstrip()):
        return "refused", OPENS_AS_A_REFUSAL
    return "ok", detail
