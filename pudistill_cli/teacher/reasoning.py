"""Reasoning before an answer, in the forms that models write, and the end-of-turn token behind it: both left out.

Only what leads the text and what ends it is touched. An answer may talk about these tags, or show them in its middle.
"""

from __future__ import annotations

import re

_NAME = r"(?:think|thinking|thoughts?|reasoning|scratchpad)"
_FORMS = tuple(
    (re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in (
        # <think> (DeepSeek R1, Qwen3), <thinking>, <thought>, <reasoning>, <seed:think>, <mm:think>
        (rf"<(?:\w+:)?{_NAME}(?::\w+)?>", rf"</(?:\w+:)?{_NAME}(?::\w+)?>"),
        (rf"\[{_NAME}\]", rf"\[/{_NAME}\]"),  # Magistral
        (rf"◁{_NAME}▷", rf"◁/{_NAME}▷"),  # Kimi
        (rf"<\|(?:start|begin)_(?:of_)?{_NAME}\|>", rf"<\|end_(?:of_)?{_NAME}\|>"),  # Command R
        (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
        (r"<\|think\|>", r"<\|end\|>\s*<\|begin\|>assistant(?:\s*<\|content\|>)?"),  # Solar
        (rf"<\|channel>\s*(?:{_NAME}|analysis)\b", r"<channel\|>"),  # Gemma 4
        (r"\[BEGIN REASONING\]", r"\[BEGIN FINAL RESPONSE\]"),  # Apriel, whose prompt opens it
    )
)
_ONLY_NAMED = re.compile(r"(?:[\s.,…/&+-]|\b(?:and|or|to)\b)*")
"""Between "<think> and </think>", which talks about the tags."""

# Harmony (gpt-oss): <|start|>assistant<|channel|>analysis<|message|>...<|end|>, the answer in the channel `final`.
_HEADER = (
    r"(?:<\|start\|>)?\s*(?:assistant)?(?P<to>\s+to=[^\s<]+)?\s*"
    r"(?:<\|channel\|>\s*(?P<channel>\w+)(?P<also_to>[^<]*)(?:<\|constrain\|>[^<]*)?)?<\|message\|>"
)
_MESSAGE = re.compile(rf"\s*{_HEADER}")
_MESSAGE_END = re.compile(r"<\|(?:end|call|eom)\|>|(?=<\|start\|>|<\|channel\|>)")
_LATER_MESSAGE = re.compile(r"<\|(?:end|return)\|>\s*(?:<\|start\|>.*)?\Z", re.DOTALL)
_FINAL = re.compile(
    r"<\|end\|>\s*(?:<\|start\|>)?assistant\s*<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
# Where a server leaves the special tokens out: "analysisWe need ...assistantfinalThe answer".
_BARE_HARMONY = re.compile(
    r"\A\s*(?:assistant)?(?:analysis|commentary).*?assistantfinal"
    r"|\A\s*analysis(?:We|The|User|I|It|Let|Need|This|Just|There|So|Okay)\b.*\Z",
    re.DOTALL,
)

# How a template begins the assistant's turn, where a server repeats it.
_TURN = re.compile(
    r"\s*(?:(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<｜begin▁of▁sentence｜>)\s*)?"
    r"(?:<\|im_start\|>assistant\b|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model\b"
    r"|<\|turn>model\b|<\|begin\|>assistant(?=<\|)|<\|begin_assistant\|>|<\|assistant\|>|<\|assistant_start\|>"
    r"|<｜Assistant｜>|<\|CHATBOT_TOKEN\|>|<\|START_(?:RESPONSE|TEXT)\|>|<\|content\|>|<\|begin_of_solution\|>)\s*"
)
_SHOWS_TURNS = re.compile(
    r"<\|(?:\w+_)?(?:begin|start)(?:_\w+)?\|>|<\|(?:user|system|assistant)\|>|<start_of_turn>|<\|turn>"
    r"|<s[\s>]|\[INST\]|<｜User｜>",
    re.IGNORECASE,
)
_END = re.compile(
    r"(?:<\|(?:(?:\w+[_:])?end(?:_\w+|of\w+)?|(?:\w+_)?eo[tmsd](?:_id|_token)?|return|calls?|flush|user|observation)\|>"
    r"|<｜(?:end▁of▁sentence|\w*eos\w*(?::\w+)?)｜>|</s>|<(?:seed:)?eos>|<eot>|<turn\|>"
    r"|<end_of_(?:turn|utterance|sentence|text)>|\[EO[ST]\]|\[e~\[|\[\|endofturn\|\]|\[END FINAL RESPONSE\])\Z",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_SENTENCE_ENDS = ".!?…。！？\"'`*)]}>|"
_NAMING = re.compile(
    r"(?:[:,=(]|\b(?:is|are|be|was|with|by|in|as|to|of|the|a|an|and|or|use|uses|like|token|tag|called|named))\s+\Z"
)
"""Before a token that a sentence names: "The token is <|im_end|>"."""


def strip_reasoning(text: str) -> str:
    """The text behind its reasoning, also with one end of that missing, and without space around it.

    Where there is no reasoning, the space that the text begins with stays: it is part of a continuation.
    """
    turn = _TURN.match(text)
    begun = text if turn is None else text[turn.end() :]
    rest = _behind_leading(begun)
    if rest is begun:
        rest = _behind_unopened(begun)
    return rest.rstrip() if rest is text else rest.strip()


def strip_end_tokens(text: str) -> str:
    """The text without the end-of-turn tokens behind it, unless it shows turns of a chat or names the token."""
    rest = text.rstrip()
    while (found := _END.search(rest, max(0, len(rest) - 80))) is not None and not _is_named(
        rest[: found.start()], found.group()
    ):
        rest = rest[: found.start()].rstrip()
    return rest


def _behind_leading(text: str) -> str:
    """Behind all blocks that lead the text; the text itself where none does."""
    rest = text
    while True:
        before = rest
        if (message := _MESSAGE.match(rest)) is not None:
            body = rest[message.end() :]
            if message["channel"] in (None, "final") and not message["to"]:
                return _LATER_MESSAGE.sub("", body, count=1)
            end = _MESSAGE_END.search(body)
            rest = "" if end is None else body[end.end() :]
        elif (bare := _BARE_HARMONY.match(rest)) is not None:
            return rest[bare.end() :]
        else:
            rest = _behind_block(rest)
        if rest is before:
            return rest
        if (turn := _TURN.match(rest)) is not None:
            rest = rest[turn.end() :]


def _behind_block(text: str) -> str:
    start = len(text) - len(text.lstrip())
    for opening, closing in _FORMS:
        opened = opening.match(text, start)
        if opened is None:
            continue
        ends = list(closing.finditer(text, opened.end()))
        if not ends:
            return ""
        inside = text[opened.end() : ends[0].start()]
        if inside.strip() and _ONLY_NAMED.fullmatch(inside):
            return text
        return text[next((end for end in ends if _closes(text, end)), ends[0]).end() :]
    return text


def _behind_unopened(text: str) -> str:
    """Behind the end of reasoning that the prompt has opened; the text itself where there is none."""
    final = _FINAL.search(text)
    if final is not None and not _in_code(text[: final.start()]):
        return _LATER_MESSAGE.sub("", text[final.end() :], count=1)
    for opening, closing in _FORMS:
        for end in closing.finditer(text):
            before = text[: end.start()]
            shown = list(opening.finditer(before))
            if any(not before[: opened.start()].rpartition("\n")[2].strip() for opened in shown):
                break  # a whole block, as an example
            if _closes(text, end) and (not shown or _stands_alone(text, end)):
                return text[end.end() :]
    return text


def _closes(text: str, end: re.Match[str]) -> bool:
    """Whether a closing tag ends reasoning, and is not a word of a sentence, quoted, or part of a listing."""
    before, after = text[: end.start()], text[end.end() :]
    last, following = before[-1:], after[:1]
    if _in_code(before) or "`" in (last, following) or (last in ("'", '"') and last == following):
        return False
    begins = last in ("", "\n") or not last.isspace() or before.rstrip()[-1:] in _SENTENCE_ENDS
    ends_line = after.lstrip(" \t")[:1] in ("", "\n", "\r")
    return begins and (ends_line or not (following.isspace() or following in ".,;:!?)]}>"))


def _stands_alone(text: str, end: re.Match[str]) -> bool:
    """On a line of its own, with an empty one behind it."""
    return (
        text[: end.start()].rpartition("\n")[2].strip() == ""
        and re.match(r"[ \t]*\n\s*\n", text[end.end() :]) is not None
    )


def _in_code(before: str) -> bool:
    return len(_FENCE.findall(before)) % 2 == 1


def _is_named(before: str, token: str) -> bool:
    """Whether an answer that ends with such a token means the token itself."""
    if _SHOWS_TURNS.search(before):
        return True
    if token in before and before.rstrip()[-1:] not in _SENTENCE_ENDS:
        return True
    return _NAMING.search(before) is not None
