"""What is computed together: rows, groups and requests within the token budget, padding included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pudistill_cli.backend_api.contract import Batch, Row, SftBatch, TrainGroup
from pudistill_cli.types import Continuations, Tokens


@dataclass(frozen=True, slots=True)
class Branch:
    """A continuation of the prefix at index `owner`."""

    owner: int
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """Answers that are computed together, their prompts, and these with the anchor in view."""

    prompts: list[Tokens]
    views: list[Tokens]
    answers: list[Branch]

    @property
    def fed(self) -> list[Branch]:
        """The answers but for their last tokens, which are predicted and never read."""
        return [Branch(answer.owner, answer.tokens[:-1]) for answer in self.answers]

    @property
    def targets(self) -> list[Tokens]:
        """The answers' tokens."""
        return [answer.tokens for answer in self.answers]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.prompts)) + max(map(len, self.targets))


# --- training ---


def row_batches(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Rows of like length together, longest first."""
    ordered = sorted(rows, key=lambda row: -row_length(row))
    while ordered:
        most = max(1, budget // row_length(ordered[0]))
        yield ordered[:most]
        ordered = ordered[most:]


def group_batches(groups: Sequence[TrainGroup], budget: int) -> Iterator[list[TrainGroup]]:
    """Groups together, the largest first; one alone may be larger than the budget."""
    batch: list[TrainGroup] = []
    for group in sorted(groups, key=longest_row, reverse=True):
        if batch and tokens_of([*batch, group]) > budget:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def rows_in_a_piece(groups: Sequence[TrainGroup], budget: int) -> int:
    """Rows of a group too large for the budget that fit it behind their prompt; one at least."""
    return max(1, (budget - max(map(_prefix, groups))) // max(map(_answer, groups)))


def pieces_of(groups: Sequence[TrainGroup], rows: int) -> Iterator[Piece]:
    """The groups' answers in their order, `rows` rows at a time."""
    answers = [Branch(g, row.completion) for g, group in enumerate(groups) for row in group.rows]
    for first in range(0, len(answers), rows):
        chunk = answers[first : first + rows]
        owners = sorted({answer.owner for answer in chunk})
        prompts, views = [groups[g].rows[0].prompt for g in owners], [groups[g].view for g in owners]
        yield Piece(prompts, views, [Branch(owners.index(answer.owner), answer.tokens) for answer in chunk])


def tokens_of(groups: Sequence[TrainGroup]) -> int:
    """Of groups that are computed together, padding included: a prompt is read once, however many answers it has."""
    return len(groups) * max(map(_prefix, groups)) + sum(len(g.rows) for g in groups) * max(map(_answer, groups))


def _prefix(group: TrainGroup) -> int:
    """Tokens of the prompt, or of the view, which is longer."""
    return max(len(group.view), max(len(row.prompt) for row in group.rows))


def _answer(group: TrainGroup) -> int:
    return max(1, *(len(row.completion) for row in group.rows))


def longest_row(group: SftBatch | TrainGroup) -> int:
    """Tokens of the longest row, also as the judge reads it: behind the view, which is longer than the prompt."""
    if isinstance(group, SftBatch):
        return max(map(row_length, group.rows))
    return max(max(len(group.view), len(row.prompt)) + len(row.completion) for row in group.rows)


def answer_tokens(batch: Batch) -> int:
    """Tokens that a batch learns from."""
    groups = (batch,) if isinstance(batch, SftBatch) else batch.groups
    return sum(len(row.completion) for group in groups for row in group.rows)


def smallest_pass(batch: Batch) -> int:
    """Tokens of a batch's longest row: no pass can be cut smaller."""
    return longest_row(batch) if isinstance(batch, SftBatch) else max(map(longest_row, batch.groups))


def row_length(row: Row) -> int:
    """Tokens of the answer behind the prompt, or behind the view, which is longer."""
    return max(len(row.prompt), len(row.view)) + len(row.completion)


# --- scoring ---


def request_batches(requests: Sequence[Continuations], budget: int) -> Iterator[list[int]]:
    """Requests to score together, longest first: the cache of all their rows, with padding, fits the budget."""
    batch: list[int] = []
    rows = longest = 0
    for i in sorted(range(len(requests)), key=lambda i: -request_length(requests[i])):
        more = max(1, len(requests[i].continuations))
        if batch and (rows + more) * max(longest, request_length(requests[i])) > budget:
            yield batch
            batch, rows, longest = [], 0, 0
        batch.append(i)
        rows, longest = rows + more, max(longest, request_length(requests[i]))
    if batch:
        yield batch


def longest_request(requests: Sequence[Continuations]) -> int:
    """Tokens of the longest row: no pass can be cut smaller."""
    return max(map(request_length, requests), default=0)


def request_length(request: Continuations) -> int:
    """Tokens of the prefix and its longest continuation."""
    return len(request.prefix) + max(map(len, request.continuations), default=0)
