"""What the llama.cpp engine's defaults stand on: speed and error of weight types, cache types, streams and threads.

    python -m benchmarks.llamacpp_options --tokenizer FOLDER --fluent shared/models/stories260K

Speed is of a random model of SmolLM2-135M's shape, in tokens a second of sampling (8 prompts of 128 tokens, 8
candidates of 48). Error is of a small trained model in float32: how far log-probs of its own samples move, in nats.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llamacpp_speed import PROMPT, PROMPTS, SEED, K, random_prompts
from benchmarks.smollm2_shape import build_student
from benchmarks.timed_runs import machine
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.types import Continuations, PromptTokens, Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "llamacpp_options.json"
NEW = 48
REPEATS = 3
STEPS = 24
VARIANTS: dict[str, dict[str, str]] = {
    "bf16": {"quant": "bf16"},
    "q8_0": {"quant": "q8_0"},
    "f16": {"quant": "f16"},
    "f32": {"quant": "f32"},
    "bf16, no flash attention": {"quant": "bf16", "flash": "off"},
    "bf16, cache in f32 without flash attention": {"quant": "bf16", "kv": "f32", "flash": "off"},
    "bf16, cache in bf16": {"quant": "bf16", "kv": "bf16"},
    "bf16, cache in q8_0": {"quant": "bf16", "kv": "q8_0"},
}


def spec_of(folder: Path, threads: int, options: dict[str, str], rows: int = 64) -> ModelSpec:
    return ModelSpec(folder, (-1,), 2048, device="cpu", threads=threads, sample_rows=rows, options=options)


def speed(folder: Path, threads: int, options: dict[str, str], rows: int = 64) -> float:
    """Tokens a second, once."""
    from pudistill_llamacpp import backend

    engine = backend.open(spec_of(folder, threads, options, rows))
    size = engine.student.model.vocabulary.size
    prompts = [tuple(token % size for token in prompt) for prompt in random_prompts(PROMPTS, PROMPT)]
    asked = [PromptTokens(str(i), prompt) for i, prompt in enumerate(prompts)]
    list(engine.sample(asked[:1], K, Sampling(2, seed=SEED), None))
    started = time.perf_counter()
    drawn = sum(len(c.tokens) for _, g in engine.sample(asked, K, Sampling(NEW, seed=SEED), None) for c in g)
    seconds = time.perf_counter() - started
    engine.close()
    return drawn / seconds


def best_of(cases: dict[str, tuple[Path, int, dict[str, str], int]]) -> dict[str, float]:
    """The best of REPEATS, one case after the other each time."""
    best: dict[str, float] = {}
    for _ in range(REPEATS):
        for name, case in cases.items():
            best[name] = max(best.get(name, 0.0), speed(*case))
            print(f"  {name}: {best[name]:.0f} tok/s", flush=True)
    return best


def seconds_a_step(student: Path) -> dict[str, float]:
    """64 sequences, a stream of cells each against one for all; the prompts' cells are shared in the second."""
    from pudistill_llamacpp.native.context import Context, ContextSettings
    from pudistill_llamacpp.native.model import Model
    from pudistill_llamacpp.student_file import student_file

    model = Model.open(student_file(student, "bf16"))
    best: dict[str, float] = {}
    rows = PROMPTS * K
    for _ in range(REPEATS):
        for name, unified in (("separate", False), ("unified", True)):
            settings = ContextSettings(256 * rows, rows, n_outputs=rows, unified=unified, threads=1)
            context = Context(model, settings)
            for n, prompt in enumerate(random_prompts(PROMPTS, PROMPT)):
                context.decode(prompt, range(PROMPT), n * K, np.arange(PROMPT) == PROMPT - 1)
                context.copy(n * K, range(n * K + 1, n * K + K))
            started = time.perf_counter()
            for step in range(STEPS):
                context.decode(np.full(rows, 300 + step), np.full(rows, PROMPT + step), np.arange(rows))
            seconds = (time.perf_counter() - started) / STEPS
            best[name] = min(best.get(name, seconds), seconds)
            context.close()
    model.close()
    return best


def errors(fluent: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """For each variant, |log-prob as drawn - log-prob in float32| over its own samples."""
    from pudistill_llamacpp import backend

    exact = backend.open(ModelSpec(fluent, (2,), 512, device="cpu", dtype="float32", threads=1))
    prompts = [PromptTokens(str(i), (1, *exact.encode("Once upon a time"))) for i in range(8)]
    for name, options in VARIANTS.items():
        if options.get("kv") == "q8_0":  # its heads are narrower than a block
            continue
        engine = backend.open(spec_of(fluent, 1, options))
        drawn = dict(engine.sample(prompts, 4, Sampling(200, seed=SEED), None))
        engine.close()
        asked = [Continuations(prompts[i].tokens, tuple(c.tokens for c in group)) for i, group in drawn.items()]
        scored = dict(exact.logprobs(asked, None))
        gaps = [c.logprobs - s for n, g in enumerate(drawn.values()) for c, s in zip(g, scored[n], strict=True)]
        gap = np.abs(np.concatenate(gaps))
        yield name, {"mean": float(gap.mean()), "max": float(gap.max())}
    exact.close()


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="config and tokenizer of SmolLM2-135M-Instruct")
    parser.add_argument("--fluent", type=Path, required=True, help="a small trained checkpoint")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    import llama_cpp

    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {"machine": machine() | {"llama_cpp_python": llama_cpp.__version__}}
    with tempfile.TemporaryDirectory() as name:
        os.environ["PUDISTILL_CACHE"] = str(Path(name) / "cache")
        student = build_student(options.tokenizer, Path(name))
        quickstart = Path(__file__).resolve().parents[1] / "recipes" / "quickstart" / "student"
        result["error_in_nats"] = dict(errors(options.fluent))
        result["tokens_per_second"] = best_of({n: (student, 1, o, 64) for n, o in VARIANTS.items()})
        result["by_rows"] = best_of({str(n): (student, 1, {"quant": "bf16"}, n) for n in (8, 16, 32, 64)})
        result["by_threads"] = best_of(
            {
                f"{what}, {n} threads": (folder, n, {"quant": quant}, 64)
                for what, folder, quant in (
                    ("135M bf16", student, "bf16"),
                    ("135M q8_0", student, "q8_0"),
                    ("0.2M f32", quickstart, "f32"),
                )
                for n in sorted({1, cores})
            }
        )
        result["seconds_a_step_by_streams"] = seconds_a_step(student)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
