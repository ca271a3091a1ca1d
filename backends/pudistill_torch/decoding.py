"""The rows that are being decoded together: one step draws one token for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pudistill_cli.backend_api.continuous_batching import Chosen, FreshRows, fresh_rows
from pudistill_cli.types import Adapter, Candidate, Sampling
from pudistill_torch.cache import RowCache
from pudistill_torch.draw import draw
from pudistill_torch.model import Model
from pudistill_torch.padding import attended, padded_left

LEAVE_SHARE = 8
"""Finished rows leave when they are 1 / LEAVE_SHARE of all: leaving copies the cache of those that stay."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of each row; on the device that draws (not MPS, which has no float64)."""

    prompt: Tensor  # (B,) index into the request
    number: Tensor  # (B,) which of the K candidates
    padding: Tensor  # (B,) cache columns before the prompt
    limit: Tensor  # (B,) most tokens to draw
    uniform: Tensor  # (B, N) float64
    tokens: Tensor  # (B, N + 1); what lies behind `written` means nothing
    logprobs: Tensor  # (B, N + 1) float32
    written: Tensor  # (B,) tokens drawn so far
    done: Tensor  # (B,) bool

    def select(self, index: Tensor) -> Rows:
        """The rows at `index`."""
        return Rows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def joined(self, other: Rows) -> Rows:
        """The other's rows below these."""
        return Rows(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})


class Decoding:
    """Rows, their cache, and how to go on. Calls of other adapters may come between two steps."""

    def __init__(self, model: Model, sampling: Sampling, adapter: Adapter | None, rows: Rows, cache: RowCache) -> None:
        self._model, self._sampling, self._adapter = model, sampling, adapter
        self._rows, self._cache = rows, cache
        self._stop = torch.tensor(model.spec.stop_tokens, device=rows.tokens.device)
        self._stops = frozenset(model.spec.stop_tokens)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._rows.done)

    @torch.inference_mode()
    def step(self) -> None:
        """Feed every row's last token and draw the next one."""
        rows, device = self._rows, self._model.device
        columns = self._cache.get_seq_length() + 1
        last = rows.tokens.gather(1, (rows.written - 1)[:, None])
        # A finished row that has not left yet goes on behind its end; it must not leave the context.
        positions = (columns - 1 - rows.padding).clamp(max=self._model.spec.context - 1)
        hidden = self._model.hidden(
            last.to(device),
            self._adapter,
            cache=self._cache,
            positions=positions[:, None].to(device),
            mask=attended(rows.padding.to(device), columns),
        )
        self.draw(hidden[:, -1])

    @torch.inference_mode()
    def draw(self, hidden: Tensor) -> None:
        """Append a token to every row: `hidden` (B, D) are the states that predict it."""
        rows, head = self._rows, self._model.head
        at = rows.written[:, None]
        u = rows.uniform.gather(1, at.clamp(max=rows.uniform.shape[1] - 1))[:, 0]
        pieces = zip(hidden.split(head.chunk), u.split(head.chunk), strict=True)
        drawn = [draw(head.logits(h).to(u.device), v, self._sampling) for h, v in pieces]
        tokens, logprobs = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        rows.tokens.scatter_(1, at, tokens[:, None])
        rows.logprobs.scatter_(1, at, logprobs[:, None])
        written = rows.written + ~rows.done
        done = rows.done | torch.isin(tokens, self._stop) | (written >= rows.limit)
        self._rows = replace(rows, written=written, done=done)

    @torch.inference_mode()
    def take_finished(self) -> list[tuple[int, int, Candidate]]:
        """(prompt, number, candidate) of the rows that leave now; all finished ones, but not at every step."""
        rows = self._rows
        finished = int(rows.done.sum())
        if not finished or finished * LEAVE_SHARE < self.rows:
            return []
        leaving = list(self._candidates(rows.select(rows.done.nonzero()[:, 0])))
        staying = (~rows.done).nonzero()[:, 0]
        self._rows = rows.select(staying)
        drop = int(self._rows.padding.min()) if len(staying) else 0
        self._cache = self._cache.rows(staying.to(self._model.device), drop)
        self._rows = replace(self._rows, padding=self._rows.padding - drop)
        return leaving

    @torch.inference_mode()
    def joined(self, other: Decoding) -> Decoding:
        """Both, decoded together from now on."""
        ours, theirs = self._cache.get_seq_length(), other._cache.get_seq_length()
        length = max(ours, theirs)
        rows = replace(self._rows, padding=self._rows.padding + length - ours).joined(
            replace(other._rows, padding=other._rows.padding + length - theirs)
        )
        cache = self._cache.joined(other._cache)
        return Decoding(self._model, self._sampling, self._adapter, rows, cache)

    def _candidates(self, rows: Rows) -> Iterator[tuple[int, int, Candidate]]:
        tokens, logprobs = rows.tokens.tolist(), rows.logprobs.cpu().numpy()
        written, prompts, numbers = rows.written.tolist(), rows.prompt.tolist(), rows.number.tolist()
        for row, length in enumerate(written):
            drawn = tuple(tokens[row][:length])
            finish = "stop" if drawn[-1] in self._stops else "length"
            yield prompts[row], numbers[row], Candidate(drawn, logprobs[row, :length].copy(), finish)


@torch.inference_mode()
def start(model: Model, prompts: Chosen, k: int, sampling: Sampling, adapter: Adapter | None) -> Decoding:
    """Prefill prompts once each, branch each into K rows and draw their first tokens."""
    batch = padded_left([prompt.tokens for _, prompt in prompts], model.device)
    cache = RowCache()
    mask = attended(batch.padding, batch.ids.shape[1])
    hidden = model.hidden(batch.ids, adapter, cache=cache, positions=batch.positions, mask=mask)
    branch = torch.arange(len(prompts), device=model.device).repeat_interleave(k)
    fresh = fresh_rows(prompts, k, sampling, model.spec.context)
    rows = _new_rows(model, fresh, sampling.max_new_tokens, batch.padding.index_select(0, branch))
    decoding = Decoding(model, sampling, adapter, rows, cache.rows(branch))
    decoding.draw(hidden[:, -1].index_select(0, branch))
    return decoding


def _new_rows(model: Model, fresh: FreshRows, most: int, padding: Tensor) -> Rows:
    device = torch.device("cpu") if model.device.type == "mps" else model.device
    count = len(fresh.prompt)
    return Rows(
        prompt=torch.from_numpy(fresh.prompt).to(device),
        number=torch.from_numpy(fresh.number).to(device),
        padding=padding.to(device),
        limit=torch.from_numpy(fresh.limit).to(device),
        uniform=torch.from_numpy(fresh.uniform).to(device),
        tokens=torch.zeros((count, most + 1), dtype=torch.long, device=device),
        logprobs=torch.zeros((count, most + 1), device=device),
        written=torch.zeros(count, dtype=torch.long, device=device),
        done=torch.zeros(count, dtype=torch.bool, device=device),
    )
