"""Export of the chosen adapter, and the proof: what was written is loaded back and compared with the trained model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pudistill_cli.contract import Engine, Tokens
from pudistill_cli.errors import ExportError, PudistillError
from pudistill_cli.job import Job
from pudistill_cli.stages.anchors import Anchored, Anchors
from pudistill_cli.tokenizer import StudentTokenizer

VERIFIED_ROWS = 16
VERIFIED_POSITIONS = 32
"""Of each answer, its last ones: a whole vocabulary is compared at each."""
KL_LIMIT = 1e-6
"""Mean next-token KL in nats above which a 32-bit export is not the trained model: rounding is below 1e-8."""
RATIO_WARN, RATIO_LOST = 0.1, 0.5
"""KL(trained || export) / KL(trained || SFT) above which part of the training is lost, and above which it is lost."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One verified export: where it is, and how far it is from the trained model in nats a token."""

    format: str
    path: str
    answers: int
    """On which it was compared."""
    kl: float
    kl_to_sft: float
    max_difference: float
    """Largest difference of a log-probability, over all next-token distributions compared."""

    @property
    def ratio(self) -> float:
        """The part of what training changed (after SFT) that this format loses; 0 where nothing changed."""
        return self.kl / self.kl_to_sft if self.kl_to_sft > 0 else 0.0


def export_best(job: Job, anchors: Anchors, name: str) -> list[Exported]:
    """Write the formats of the recipe for the adapter `name`, unless the ledger says they are there."""
    formats = [f for f in job.recipe.export.formats if not job.ledger.stage_done(f"export/{f}")]
    return [export_one(job, anchors, name, f) for f in formats]


def export_one(job: Job, anchors: Anchors, name: str, format: str) -> Exported:
    """Write one format to `export/<format>` and verify it.

    Raises:
        ExportError: it cannot be written, or what was written is not the trained model; nothing is left then.
    """
    stage = f"export/{format}"
    job.ledger.begin_stage(stage)
    rows = [a for a in anchors.held_out["dev"] or anchors.rl_pool if a.answer_tokens][:VERIFIED_ROWS]
    final = job.folder.export(format)
    partial = final.with_name(final.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        with job.console.bar(f"export {format}", 2) as bar:
            (_write_adapter if format == "adapter" else _write_merged)(job, name, partial)
            bar.advance()
            exported = _verify(job, name, format, partial, rows)
            bar.advance()
        job.folder.replace_folder(partial, final)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    exported = replace(exported, path=str(final))
    job.folder.write_atomic(final / "pudistill.json", json.dumps(_card(job, name, exported), indent=2) + "\n")
    job.ledger.finish_stage(stage, asdict(exported))
    _report(job, exported)
    return exported


def _write_adapter(job: Job, name: str, out: Path) -> None:
    shutil.copytree(job.folder.adapter(name), out)


def _write_merged(job: Job, name: str, out: Path) -> None:
    from pudistill_cli.weights import merge_lora

    merge_lora(job.student.folder, job.folder.adapter(name), out, dtype=job.recipe.export.dtype)


def _verify(job: Job, name: str, format: str, path: Path, rows: list[Anchored]) -> Exported:
    """Load the export in its runtime and compare next-token distributions, token ids, template and end of turn."""
    trained = _distributions(job.engine, job.adapter(name), rows)
    sft = _distributions(job.engine, job.adapter("sft"), rows)
    if format == "adapter":
        handle = job.engine.load_adapter(path)
        exported = _distributions(job.engine, handle, rows)
        job.engine.drop_adapter(handle)
    else:
        _same_text(job, path, rows)
        try:
            engine = job.backend.open(replace(job.spec, folder=path))
        except PudistillError as error:
            raise ExportError(
                f"The {format} export cannot be loaded: {error.message}", "Please report this."
            ) from error
        try:
            exported = _distributions(engine, None, rows)
        finally:
            engine.close()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(trained, exported, strict=True))
    kl, kl_to_sft = _mean_kl(trained, exported), _mean_kl(trained, sft)
    found = Exported(format, str(path), len(rows), kl, kl_to_sft, difference)
    full = format == "adapter" or (job.recipe.export.dtype == "float32" and job.resolved["dtype"] == "float32")
    if not np.isfinite(found.kl) or (full and found.kl > KL_LIMIT):
        raise ExportError(
            f"The {format} export is not the trained model: mean next-token KL {found.kl:.2e} nats.",
            "Nothing was kept of it. Please report this with the student's config.json.",
        )
    return found


def _same_text(job: Job, path: Path, rows: list[Anchored]) -> None:
    """Token ids, chat template and stop tokens of the exported folder equal the student's."""
    tokenizer = StudentTokenizer.load(path, format=job.recipe.prompts.format)
    if tokenizer.chat_template != job.tokenizer.chat_template or tokenizer.stop_tokens != job.tokenizer.stop_tokens:
        raise ExportError("The export's chat template or stop tokens differ from the student's.", "Please report this.")
    for row in rows:
        text = "".join(m.content for m in row.prompt.messages) + row.answer
        if tuple(tokenizer.encode_text(text)) != tuple(job.tokenizer.encode_text(text)):
            raise ExportError("The export's tokenizer gives other ids than the student's.", "Please report this.")


def _distributions(engine: Engine, adapter: str | None, rows: list[Anchored]) -> list[np.ndarray]:
    """Per row (T, V): log-probs of the token after each of the answer's last positions."""
    tokens: list[Tokens] = [r.prompt_tokens + r.answer_tokens for r in rows]
    last = [min(len(r.answer_tokens), VERIFIED_POSITIONS) for r in rows]
    return [engine.distributions(t, n, adapter) for t, n in zip(tokens, last, strict=True)]


def _mean_kl(p: list[np.ndarray], q: list[np.ndarray]) -> float:
    """Mean over all positions of KL(p || q) in nats; normalised again in float64, so that it is not below zero."""
    per_position = [_kl(_normalised(a), _normalised(b)) for a, b in zip(p, q, strict=True)]
    return float(np.concatenate(per_position).mean())


def _kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (np.exp(a) * (a - b)).sum(axis=-1)


def _normalised(logprobs: np.ndarray) -> np.ndarray:
    wide = logprobs.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def _card(job: Job, name: str, exported: Exported) -> dict[str, object]:
    return {
        "made_by": "pudistill",
        "run": job.folder.name,
        "adapter": name,
        "student": job.recipe.student.model.rsplit("/", 1)[-1],
        "verification": {k: v for k, v in asdict(exported).items() if k != "path"},
    }


def _report(job: Job, exported: Exported) -> None:
    job.console.say(
        f"{exported.format}: loaded back and compared on {exported.answers} held-out answers: "
        f"KL {exported.kl:.1e} nats a token, {exported.ratio:.1%} of what training changed after SFT"
    )
    if exported.ratio > RATIO_LOST:
        job.console.warn(f"This {exported.format} export lost the training. Use --dtype float32 or --format adapter.")
    elif exported.ratio > RATIO_WARN:
        job.console.warn(f"This {exported.format} export loses part of the training. --dtype float32 keeps it.")
