"""From a teacher's words to an answer: reasoning stripped; refused, empty and cut-off ones told apart."""

from __future__ import annotations

import re

from pudistill_cli.teacher.answers import Answer, Status

CLOSED_REASONING = re.compile(r"<(think|thinking)>.*?</\1>\s*", re.DOTALL)
# Without its end only at the start of a line: a tag inside a sentence is more likely being talked about.
UNCLOSED_REASONING = re.compile(r"^[ \t]*<(think|thinking)>.*\Z", re.DOTALL | re.MULTILINE)
# Some chat templates open the tag in the prompt, so that the answer holds its end only.
UNOPENED_REASONING = re.compile(r"\A.*</(think|thinking)>[ \t]*(\n\s*|\Z)", re.DOTALL)

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
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
) -> Answer:
    """Strip the reasoning and give the answer its status.

    `reasoning` and `refusal` are the fields in which some endpoints put these apart from the text. A cut-off
    answer is "truncated" even when nothing is left of it; the endpoint's own word on a refusal goes first.
    """
    answer = strip_reasoning(text)
    status, detail = _status(answer, finish_reason, refusal)
    return Answer(
        # A cut in the middle of a surrogate pair leaves half a character, which no file could hold.
        text=answer.encode("utf-8", "replace").decode(),
        status=status,
        finish_reason=finish_reason,
        reasoning_stripped=answer.strip() != text.strip() or bool(reasoning.strip()),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        detail=detail,
    )


def strip_reasoning(text: str) -> str:
    """Leave out `<think>` and `<thinking>` blocks, also with one end missing, and space around the rest.

    Where there is no reasoning, the space that the text begins with stays: it is part of a continuation.
    """
    rest = UNOPENED_REASONING.sub("", UNCLOSED_REASONING.sub("", CLOSED_REASONING.sub("", text)))
    return rest.rstrip() if rest == text else rest.strip()


def is_refusal(text: str) -> bool:
    """Whether the answer opens as a refusal, in English."""
    start = text[:200].replace("’", "'").lower()
    opening = REFUSAL.match(start)
    return opening is not None and start[opening.end() :].lstrip().startswith(DECLINING)


def _status(answer: str, finish_reason: str, refusal: str) -> tuple[Status, str]:
    if refusal.strip():
        return "refused", "the endpoint marked it as a refusal"
    if finish_reason == "content_filter":
        return "refused", "the endpoint's content filter"
    if finish_reason == "length":
        return "truncated", ""
    if not answer.strip():
        return "empty", ""
    if is_refusal(answer.lstrip()):
        return "refused", "it opens as a refusal"
    return "ok", ""
