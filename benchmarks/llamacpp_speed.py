"""Speed of the llama.cpp engine on a model of SmolLM2-135M's exact shape, against its peers in the same run.

    python -m benchmarks.llamacpp_speed --tokenizer FOLDER --batched-bench PROGRAM

FOLDER holds config.json, tokenizer.json and tokenizer_config.json of SmolLM2-135M-Instruct; PROGRAM is llama.cpp's
llama-batched-bench, which `make check` builds in .upstream/; weights and adapter are random and seeded. Every figure is
the best of REPEATS, taken in turns after a warm-up: the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llamacpp_peers import HighLevel, Transformers, batched_bench, timed
from benchmarks.smollm2_shape import build_student
from benchmarks.timed_runs import machine
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.types import Continuations, PromptTokens, Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "llamacpp_speed.json"
SEED = 0
PROMPTS, PROMPT, K, NEW = 8, 128, 8, 96
PREFIX = 384
VOCABULARY = 49152
RANK, ALPHA = 32, 64.0
REPEATS = 3
TARGETS = {
    "transformers": 2.0,
    "high_level": 3.0,
    "scoring": 2.3,
    "python_share": 0.05,
    "batched_bench": 0.9,
}


def random_prompts(count: int, length: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(SEED)
    return [tuple(int(t) for t in rng.integers(300, VOCABULARY, length)) for _ in range(count)]


def save_adapter(student: Path, folder: Path) -> Path:
    """A random LoRA on every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", init_lora_weights="gaussian")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(student), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(folder)
    return folder


def in_turns(sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Rates (tokens a second) of each side, REPEATS times, one side after the other."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(REPEATS):
        for name, side in sides.items():
            rates[name].append(side())
            print(f"  {repeat + 1}/{REPEATS} {name}: {rates[name][-1]:.0f} tok/s", flush=True)
    return rates


def rate(work: Callable[[], int]) -> Callable[[], float]:
    def timed_work() -> float:
        started = time.perf_counter()
        tokens = work()
        return tokens / (time.perf_counter() - started)

    return timed_work


# --- sampling with an adapter -------------------------------------------------------------------


def sampling(student: Path, adapter: Path, folder: Path, threads: int, quant: str) -> dict[str, Any]:
    """8 prompts of 128 tokens, 8 candidates of 96 tokens each; nothing ends early on any side."""
    from pudistill_llamacpp import backend
    from pudistill_llamacpp.lora_gguf import write_lora_gguf

    prompts = random_prompts(PROMPTS, PROMPT)
    engine = backend.open(spec_of(student, threads, quant))
    handle = engine.load_adapter(adapter)
    write_lora_gguf(adapter, json.loads((student / "config.json").read_text()), folder / "adapter.gguf")
    peers = {
        f"transformers {dtype}": Transformers(student, adapter, dtype, threads) for dtype in ("bfloat16", "float32")
    }
    high = HighLevel(engine.file, folder / "adapter.gguf", threads, n_ctx=2 * PROMPT)

    def ours(new: int) -> int:
        asked = [PromptTokens(str(i), prompt) for i, prompt in enumerate(prompts)]
        groups = engine.sample(asked, K, Sampling(new, seed=SEED), handle)
        return sum(len(c.tokens) for _, group in groups for c in group)

    ours(4), high.sample(prompts[:1], 1, 4), [peer.sample(prompts[:1], 1, 4) for peer in peers.values()]
    rates = in_turns(
        {"pudistill": rate(lambda: ours(NEW))}
        | {name: rate(lambda peer=peer: peer.sample(prompts, K, NEW)) for name, peer in peers.items()}
        | {"high_level": rate(lambda: high.sample(prompts, K, NEW))}
    )
    share = python_share(lambda: ours(NEW))
    high.close()
    engine.close()
    best = {name: max(measured) for name, measured in rates.items()}
    transformers = max(value for name, value in best.items() if name.startswith("transformers"))
    return {
        "quant": engine.placement.quant,
        "tokens_per_second": best,
        "every_repeat": rates,
        "ratio_to_transformers": best["pudistill"] / transformers,
        "ratio_to_high_level": best["pudistill"] / best["high_level"],
        "python_share": share,
    }


def python_share(work: Callable[[], int]) -> float:
    """The part of the time that is not spent in llama.cpp."""
    from pudistill_llamacpp.native.context import Context

    with timed(Context, "decode") as inside, timed(Context, "__init__") as opening:
        started = time.perf_counter()
        work()
        total = time.perf_counter() - started
    return 1 - (sum(inside) + sum(opening)) / total


def spec_of(student: Path, threads: int, quant: str) -> ModelSpec:
    """Nothing ends an answer."""
    options = {"quant": quant}
    return ModelSpec(student, stop_tokens=(-1,), context=4096, device="cpu", threads=threads, options=options)


# --- scoring ------------------------------------------------------------------------------------


def scoring(student: Path, adapter: Path, threads: int, quant: str) -> dict[str, Any]:
    """8 candidates of 96 tokens behind 384 shared ones, against a full prefill of each; logits of answers only."""
    from pudistill_llamacpp import backend
    from pudistill_llamacpp.log_softmax import logprobs_of

    rows = random_prompts(1, PREFIX) + random_prompts(K + 1, NEW)[1:]
    prefix, answers = rows[0], rows[1:]
    engine = backend.open(spec_of(student, threads, quant))
    handle = engine.load_adapter(adapter)
    logprobs: dict[str, Any] = {}

    def shared() -> int:
        ((_, logprobs["shared"]),) = engine.logprobs([Continuations(prefix, tuple(answers))], handle)
        return K * NEW

    def full() -> int:
        model, length = engine.student, PREFIX + NEW
        context = model.context(512, 1, engine._adapters.lora(handle), n_batch=512, n_ubatch=512, n_outputs=NEW)
        at = np.arange(length)
        wants = (at >= PREFIX - 1) & (at < length - 1)
        logprobs["full"] = []
        for answer in answers:
            context.clear()
            logits = context.decode(prefix + answer, at, 0, wants)
            logprobs["full"].append(logprobs_of(logits, np.array(answer)))
        context.close()
        return K * NEW

    shared(), full()
    rates = in_turns({"shared": rate(shared), "full": rate(full)})
    engine.close()
    best = {name: max(values) for name, values in rates.items()}
    difference = max(float(np.abs(a - b).max()) for a, b in zip(logprobs["shared"], logprobs["full"], strict=True))
    return {
        "quant": engine.placement.quant,
        "tokens_per_second": best,
        "every_repeat": rates,
        "ratio": best["shared"] / best["full"],
        "largest_difference": difference,
    }


# --- decoding alone -----------------------------------------------------------------------------


def decoding(student: Path, threads: int, quant: str, program: Path) -> dict[str, Any]:
    """Tokens drawn after the first, by the time that is not prefilling, against a program that draws nothing."""
    from pudistill_llamacpp import backend
    from pudistill_llamacpp.decoding import Decoding
    from pudistill_llamacpp.native.context import Context

    engine = backend.open(spec_of(student, threads, quant))
    result: dict[str, Any] = {"quant": engine.placement.quant}

    def ours(prompts: int) -> float:
        asked = [PromptTokens(str(i), prompt) for i, prompt in enumerate(random_prompts(prompts, PROMPT))]
        with timed(Decoding, "admit") as admitting, timed(Context, "__init__") as opening:
            started = time.perf_counter()
            drawn = sum(
                len(c.tokens) - 1 for _, g in engine.sample(asked, K, Sampling(NEW, seed=SEED), None) for c in g
            )
            seconds = time.perf_counter() - started - sum(admitting) - sum(opening)
        return drawn / seconds

    for prompts in (1, PROMPTS):
        sequences = prompts * K
        rates = in_turns(
            {
                "pudistill": lambda prompts=prompts: ours(prompts),
                "batched_bench": lambda n=sequences: batched_bench(program, engine.file, n, PROMPT, NEW, threads),
            }
        )
        best = {name: max(values) for name, values in rates.items()}
        result[f"{sequences} sequences"] = {
            "tokens_per_second": best,
            "every_repeat": rates,
            "ratio": best["pudistill"] / best["batched_bench"],
        }
    engine.close()
    return result


def main() -> None:
    """Build, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="config and tokenizer of SmolLM2-135M-Instruct")
    parser.add_argument("--batched-bench", type=Path, required=True, help="the program, built from the same sources")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quant", default="auto", help="weights of the sampler; what the engine chooses, if not said")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import llama_cpp

    before = machine() | {"llama_cpp_python": llama_cpp.__version__, "threads": options.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PUDISTILL_CACHE"] = str(folder / "cache")
        student = build_student(options.tokenizer, folder)
        adapter = save_adapter(student, folder / "adapter")
        result = {
            "machine": before,
            "settings": {"prompts": PROMPTS, "prompt": PROMPT, "k": K, "new": NEW, "prefix": PREFIX, "rank": RANK},
            "targets": TARGETS,
            "sampling": sampling(student, adapter, folder, options.threads, options.quant),
            "scoring": scoring(student, adapter, options.threads, options.quant),
            "decoding": decoding(student, options.threads, options.quant, options.batched_bench),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
