"""What is odd in a teacher's answers as a whole: unknown finish reasons, a template's text, what most share."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from pudistill_cli.files.input_lines import listed
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.finish_reasons import ending

TEMPLATE_TEXT = re.compile(
    r"<\|[^\s|<>]{1,40}\|>|<｜[^\s｜<>]{1,40}｜>|<\|[a-z_]{2,20}>|<[a-z_]{2,20}\|>|<(?:start|end)_of_\w{1,20}>"
    r"|</?(?:\w{1,20}:)?(?:think|thinking)(?::\w{1,20})?>|\[/?(?:THINK|INST)\]|◁/?think▷"
)
"""Special tokens and tags as chat templates and reasoning models write them."""

FEWEST = 8
"""Fewer answers say nothing about what is common to them."""
SHORTEST = 8
"""Characters of a beginning or an end that is worth a word; a whole answer must be longer, since it may be a label."""
LONGEST_LABEL = 40
LONGEST = 200
_SHOWN = 3


def warnings_of(answers: Collection[Answer]) -> list[str]:
    """One warning about each thing, with its count, that a user should know of before these answers are trained on."""
    kept = [answer.text.strip() for answer in answers if answer.status == "ok"]
    return [w for w in (_unknown_reasons(answers), _template_text(kept), *_in_common(kept)) if w]


def _unknown_reasons(answers: Collection[Answer]) -> str:
    reasons = Counter(answer.finish_reason for answer in answers if ending(answer.finish_reason) == "unknown")
    if not reasons:
        return ""
    return (
        f"{reasons.total()} of {len(answers)} answers ended for a reason that is not known to mean a whole answer: "
        f"{_counted(reasons)}. They count as cut off: they are not trained on, and not asked for again. If they are "
        "whole, please report the reason."
    )


def _template_text(kept: Sequence[str]) -> str:
    marks = Counter(mark for text in kept for mark in set(TEMPLATE_TEXT.findall(text)))
    holding = sum(TEMPLATE_TEXT.search(text) is not None for text in kept)
    if not holding:
        return ""
    return (
        f"{holding} of {len(kept)} answers hold text of a chat template: {_counted(marks)}. Unless the prompts ask for "
        "it, the endpoint gives the model's output unparsed, and the student would learn it."
    )


def _in_common(kept: Sequence[str]) -> Iterable[str]:
    """What most answers begin or end with, unless they are written in a form that has it: JSON, or one XML element."""
    texts = [text for text in kept if text]
    if len(texts) < FEWEST or 2 * sum(map(_is_structured, texts)) > len(texts):
        return
    begins = _shared(texts, lambda text, n: text[:n])
    ends = _shared(texts, lambda text, n: text[-n:])
    for where, part, count in (("begin", *begins), ("end", *ends)):
        if part:
            yield (
                f"{count} of {len(texts)} answers {where} alike: {_short(part)}. Unless the prompts ask for it, it may "
                "be reasoning or a phrase of the teacher's, and the student would learn it."
            )


def _is_structured(text: str) -> bool:
    if text[0] in '{["' or text[0].isdigit():
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True
    element = re.match(r"<([A-Za-z][\w.-]*)[^<>]*>", text)
    return element is not None and text.endswith(f"</{element[1]}>")


def _shared(texts: Sequence[str], part: Callable[[str, int], str]) -> tuple[str, int]:
    """The longest part that more than half of the texts share, and how many do; ("", 0) if it is not worth a word."""
    found, count = "", 0
    held = list(texts)
    for length in range(1, LONGEST + 1):
        parts = Counter(part(text, length) for text in held if len(text) >= length)
        if not parts:
            break
        most, times = parts.most_common(1)[0]
        if 2 * times <= len(texts):
            break
        found, count = most, times
        held = [text for text in held if part(text, length) == most]
    if len(found.strip()) < SHORTEST or (len(found) <= LONGEST_LABEL and 2 * texts.count(found) > len(texts)):
        return "", 0
    return found, count


def _counted(counts: Counter[str]) -> str:
    return listed([f"{what!r} ({n})" for what, n in counts.most_common()], ", ", _SHOWN)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
