"""What a run on a GGUF student gains by sampling dequantised weights, and by waiting threads that sleep.

    python -m benchmarks.measured_choice --student SmolLM2-135M-Instruct.Q4_1.gguf

`types`: a small round (sampling and scoring, random tokens, the engine's own functions) from the file as it is and from
its copies, one thread, in turns after a turn that warms up; CPU seconds, which other programs do not stretch. `choice`:
what a run would choose, and how long it tried. `threads`: a trial of that choice on one thread and on all, beside a
program that keeps one core busy, with OpenMP's threads waiting as they do by default and asleep; seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.types import Continuations, PromptTokens, Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "measured_choice.json"
TYPES = ("file", "bf16", "f16", "q8_0")
PROMPTS, PROMPT, K, NEW = 4, 110, 16, 12
SEED = 0
BUSY = "while True: pass"
WAITING = {"as by default": {}, "asleep": {"OMP_WAIT_POLICY": "passive"}}


def spec_of(student: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(student, (-1,), 512, device="cpu", **changes)


def round_seconds(engine: Engine) -> float:
    """CPU seconds of sampling K candidates a prompt and scoring them behind a longer prefix."""
    rng = np.random.default_rng(SEED)
    prompts = [tuple(rng.integers(300, 40_000, PROMPT).tolist()) for _ in range(PROMPTS)]
    asked = [PromptTokens(f"{i:032x}", prompt) for i, prompt in enumerate(prompts)]
    started = time.process_time()
    groups = dict(engine.sample(asked, K, Sampling(NEW, seed=SEED), None))
    views = [
        Continuations((*prompt, *prompt[: PROMPT // 2]), tuple(c.tokens for c in groups[i]))
        for i, prompt in enumerate(prompts)
    ]
    list(engine.logprobs(views, None))
    return time.process_time() - started


def types(student: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of a round by type, and how many times as fast as the file it is."""
    from pudistill_llamacpp import backend

    engines = {name: backend.open(spec_of(student, threads=1, options={"quant": name})) for name in TYPES}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(repeats + 1):
        for name, engine in engines.items():
            spent = round_seconds(engine)
            if turn:
                seconds[name].append(spent)
    for engine in engines.values():
        engine.close()
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        name: {"cpu_seconds": value, "times_as_fast_as_the_file": medians["file"] / value}
        for name, value in medians.items()
    }


def choice(student: Path) -> dict[str, Any]:
    """What a run would resolve to, and the seconds by the clock that it takes to find out."""
    from pudistill_llamacpp import backend

    started = time.perf_counter()
    found = dict(backend.measured(spec_of(student), None))
    return {"quant": found["quant"], "threads": found["threads"], "seconds": time.perf_counter() - started}


def trials(student: Path, quant: str) -> dict[str, float]:
    """Seconds of a trial by number of threads, in this process."""
    from pudistill_llamacpp.excerpt import shape_of
    from pudistill_llamacpp.placement import place
    from pudistill_llamacpp.speed import excerpt_times

    cases = [(quant, n) for n in (1, cpu.cores())]
    times = excerpt_times(shape_of(student), place(spec_of(student)), cases)
    return {str(threads): times[quant, threads] for _, threads in cases}


def threads(student: Path, quant: str, repeats: int) -> dict[str, Any]:
    """Both ways of waiting in turns, each in a process of its own, beside a busy one."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAITING}
    command = [sys.executable, "-m", "benchmarks.measured_choice", "--student", str(student), "--trials", quant]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        for _ in range(repeats):
            for name, environment in WAITING.items():
                done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout))
    finally:
        busy.kill()
        busy.wait()
    most = str(cpu.cores())
    return {
        name: {"seconds": times, "all_threads_over_one": median(t[most] / t["1"] for t in times)}
        for name, times in found.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="a quantised GGUF file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if options.trials:
        print(json.dumps(trials(options.student, options.trials)))
        return
    name, features = cpu.name_and_features()
    record: dict[str, Any] = {
        "machine": {"cpu": name, "features": features, "cores": cpu.cores()},
        "load_average": os.getloadavg()[0],
        "student": options.student.name,
        "work": f"{PROMPTS} prompts of {PROMPT} tokens, K = {K}, {NEW} new tokens; scored behind {PROMPT * 3 // 2}",
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PUDISTILL_CACHE"] = folder
        record["types"] = types(options.student, options.repeats)
        cpu.let_idle_threads_sleep()
        record["choice"] = choice(options.student)
        record["threads"] = threads(options.student, record["choice"]["quant"], options.repeats)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
