"""What comes from outside as no one writes it: a teacher's replies, files of answers, of prompts and of judgements, and
answers that a metric grades.

`inputs(seed, count)` gives the inputs; a callable reads one, and returns, or raises a PudistillError. Anything else is a
fault.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzzing.mutations import damaged_bytes, mutated_json, text_of
from pudistill_cli.judging.gold import read_gold
from pudistill_cli.metrics.registry import METRICS
from pudistill_cli.prompt_files import read_prompts
from pudistill_cli.teacher.answers import Answer, Question
from pudistill_cli.teacher.file import AnswerFile, answer_line
from pudistill_cli.teacher.reply import Retry, read_reply
from pudistill_cli.types import Message

_USAGE = {"prompt_tokens": 7, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 2}}
_HI = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi"}]
REPLIES: tuple[Any, ...] = (
    {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}], "usage": _USAGE},
    {
        "choices": [
            {
                "message": {"content": "<think>a</think>b", "reasoning_content": "c", "refusal": None},
                "finish_reason": "length",
            }
        ]
    },
    {
        "choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}]}}],
        "usage": _USAGE,
    },
    {"choices": [{"message": {"content": None, "tool_calls": [{"id": 1}]}, "finish_reason": {"type": "stop"}}]},
    {
        "choices": [{"message": {"content": "a"}, "finish_reason": "stop", "native_finish_reason": "SAFETY"}],
        "error": {"code": 429},
    },
    {"error": {"message": "too many", "code": "insufficient_quota", "param": "n", "type": "x"}},
    {"error": {"message": "no such model", "status": 404}},
    {"error": "a text"},
    {"detail": [{"loc": ["body"], "msg": "field required"}]},
)
ANSWERS: tuple[Any, ...] = (
    {"prompt": "Hi", "answer": "Hello", "finish_reason": "stop"},
    {"messages": _HI, "answer": "Hello"},
    {"messages": [*_HI, {"role": "assistant", "content": "Hello"}]},
)
PROMPTS: tuple[Any, ...] = (
    {"prompt": "Hi", "reference": "Hello", "tags": [1]},
    {"messages": _HI, "reference": "Hello"},
)
JUDGEMENTS: tuple[Any, ...] = (
    {"prompt": "Hi", "anchor": "Hello", "chosen": "a", "rejected": "b"},
    {"messages": _HI, "anchor": "Hello", "candidates": [{"text": "a", "grade": 1}, {"text": "b", "grade": 0.5}]},
    {"instruction": "Hi", "output_1": "a", "output_2": "b", "preference": 1, "anchor": "c"},
)
GRADED: tuple[Any, ...] = (
    {"a": [1, {"b": None}], "c": 1.50},
    [1, "x", True],
    {"action": "remind", "at": "9:00"},
    3,
    "text",
)
_PIECES = (
    "Hello", "<think>", "</think>", "<|im_end|>", "</s>", "```json\n", "{", "}", "[", '"a": 1', ",", "\0", "\ud800", "\x1b[2J", "\u202e",
    " ", "\n", "é", "\U0001f642", "NaN", "1e999999999", "9" * 5000, "-0", "[" * 3000, "I'm sorry, I can't help", "<|channel|>final", "\r",
)  # fmt: skip
_STATUS = (200, 200, 200, 200, 201, 204, 301, 400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 529, 999)
_WAITS = (
    "1",
    "0",
    "-1",
    "1e9",
    "9" * 400,
    "nan",
    "inf",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wed, 99 Foo 99999 99:99:99",
    "",
    "\0",
    "²",
)
_KINDS = ("reply", "answers", "prompts", "judgements", "metric")


def inputs(seed: int, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """`count` inputs: (its number and kind, what reads it). The folder they are written to lasts as long as they do."""
    folder = tempfile.TemporaryDirectory(prefix="pudistill-replies-")
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        kind = rng.choices(_KINDS, (35, 20, 20, 15, 10))[0]
        yield f"{kind} {seed}/{number}", _INPUTS[kind](rng, folder)


# --- a teacher's reply ---


def _reply(rng: Random, folder: object) -> Callable[[], object]:
    _, data = mutated_json(rng.choice(REPLIES), rng)
    if rng.random() < 0.2:
        _, data = damaged_bytes(data, rng)
    if rng.random() < 0.3:
        data = data.replace(b'"Hello"', json.dumps(_words(rng)).encode())
    headers = {"retry-after": rng.choice(_WAITS)} if rng.random() < 0.3 else {}
    headers |= {"location": "http://\x1b[2J"} if rng.random() < 0.1 else {}
    body = data.decode("utf-8", rng.choice(("replace", "surrogateescape")))
    most = rng.choice((None, 9, 1 << 40))
    return partial(_read_reply, rng.choice(_STATUS), headers, body, most)


def _read_reply(status: int, headers: dict[str, str], body: str, most: int | None) -> object:
    outcome = read_reply(status, headers, body, "m", "http://h/v1", most)
    answer = outcome.partial if isinstance(outcome, Retry) else outcome
    if isinstance(answer, Answer):  # what is paid for can be kept in a file
        answer_line([Message("user", "Hi")], answer).encode("utf-8", "surrogatepass")
    return outcome


# --- files ---


def _file(rng: Random, folder: Any, records: tuple[Any, ...], suffixes: tuple[str, ...]) -> tuple[Path, bytes]:
    lines = []
    for _ in range(rng.randrange(1, 6)):
        record = rng.choice(records)
        data = mutated_json(record, rng)[1] if rng.random() < 0.6 else text_of(record).encode()
        lines.append(data.replace(b'"Hello"', json.dumps(_words(rng)).encode()) if rng.random() < 0.2 else data)
    content = rng.choice((b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"")).join(lines)
    if rng.random() < 0.15:
        content = b"[" + b",".join(lines) + rng.choice((b"]", b"", b",]", b"]]"))
    if rng.random() < 0.2:
        _, content = damaged_bytes(content, rng)
    if rng.random() < 0.06:
        encoding = rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"))
        content = content.decode("utf-8", "replace").encode(encoding)
    if rng.random() < 0.05:
        content = rng.choice((b"\x1f\x8b", b"PK\x03\x04", b"GGUF", b"<!doctype html>", b"\x1a", b"")) + content
    return Path(folder.name) / f"input{rng.choice(suffixes)}", content


def _answers(rng: Random, folder: Any) -> Callable[[], object]:
    path, content = _file(rng, folder, ANSWERS, (".jsonl",))
    return partial(_read_answers, folder, path, content, rng.choice(("fail", "skip")))


def _read_answers(folder: object, path: Path, content: bytes, on_bad_line: Any) -> object:
    path.write_bytes(content)
    question = Question("key", (Message("user", "Hi"),))
    return list(AnswerFile(path, on_bad_line).ask([question]))


def _prompts(rng: Random, folder: Any) -> Callable[[], object]:
    path, content = _file(rng, folder, PROMPTS, (".jsonl", ".jsonl", ".txt", ".JSON"))
    return partial(_read_prompts, folder, path, content, rng.choice(("fail", "skip")), rng.choice(("chat", "text")))


def _read_prompts(folder: object, path: Path, content: bytes, on_bad_line: Any, format: Any) -> object:
    path.write_bytes(content)
    return read_prompts(path, format, on_bad_line, None if format == "text" else "S")


def _judgements(rng: Random, folder: Any) -> Callable[[], object]:
    path, content = _file(rng, folder, JUDGEMENTS, (".jsonl", ".json"))
    return partial(_read_judgements, folder, path, content)


def _read_judgements(folder: object, path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return read_gold(path)


# --- what a metric grades ---


_GRADERS = {name: metric() for name, metric in METRICS.items() if name in ("exact", "chrf", "json", "number")} | {
    "regex": METRICS["regex"](pattern="(a|aa)+$"),
    "contains": METRICS["contains"](["a", "\x00"]),
}


def _metric(rng: Random, folder: object) -> Callable[[], object]:
    reference = text_of(rng.choice(GRADED))
    answer = _words(rng) if rng.random() < 0.3 else mutated_json(rng.choice(GRADED), rng)[1].decode("utf-8", "replace")
    texts = (answer[:20_000], reference) if rng.random() < 0.7 else (reference, answer[:20_000])
    return partial(_grade, rng.choice(sorted(_GRADERS)), *texts)


def _grade(name: str, answer: str, reference: str) -> object:
    grade = _GRADERS[name](answer, reference, "Hi")
    if not 0 <= grade <= 1:
        raise AssertionError(f"{name} grades {grade}")
    return grade


def _words(rng: Random) -> str:
    return "".join(rng.choice(_PIECES) for _ in range(rng.randrange(1, 12)))


_INPUTS: dict[str, Callable[[Random, Any], Callable[[], object]]] = dict(
    zip(_KINDS, (_reply, _answers, _prompts, _judgements, _metric), strict=True)
)
