"""From which size of student llama.cpp samples faster than torch on this CPU: what `backend: auto` goes by.

    python -m benchmarks.engine_choice
    python -m benchmarks.engine_choice --sizes 0.2M 30M --repeats 5 --out result.json

Models of random weights, with an adapter of rank 32, on both engines in their own defaults and one thread. The two are
timed in turns, the best of each counts; a second is one of CPU time, which other programs do not stretch. `opening` is
conversion and loading, in seconds by the clock, which a run pays once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Engine, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.backend_api.registry import usable
from pudistill_cli.types import PromptTokens, Sampling

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "recipes" / "quickstart" / "student"
RESULTS = ROOT / "benchmarks" / "results" / "engine_choice.json"
SEED = 0
PROMPTS, PROMPT_TOKENS, K, NEW_TOKENS = 8, 64, 8, 48
SIZES = {
    "0.2M": {"hidden_size": 80, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4},
    "3M": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 6},
    "10M": {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 8, "num_attention_heads": 5},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 9, "num_attention_heads": 8},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
}
VOCABULARY = {"0.2M": 768, "3M": 4_096, "10M": 8_192, "30M": 16_384, "135M": 49_152}


def build(size: str, out: Path) -> Path:
    """A Llama of random weights in bfloat16, as checkpoints come, with the quickstart's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        **SIZES[size], vocab_size=VOCABULARY[size], tie_word_embeddings=True, bos_token_id=2, eos_token_id=1
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TOKENIZER / name, out / name)
    return out


def measure(size: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Tokens a second of both engines, and the seconds that each takes to open."""
    checkpoint = build(size, folder / size)
    # Nothing random ends by itself, so every candidate has its full length.
    spec = ModelSpec(checkpoint, (VOCABULARY[size] - 1,), PROMPT_TOKENS + NEW_TOKENS, device="cpu", threads=1)
    adapter = usable("torch").learn(spec, LoraSpec(), OptimizerSpec(), None).snapshot(folder / f"{size}-adapter")
    opened: dict[str, Engine] = {}
    result: dict[str, Any] = {}
    for name in ("torch", "llamacpp"):
        start = time.perf_counter()
        opened[name] = usable(name).open(spec)
        result[name] = {"opening_s": time.perf_counter() - start, "resolved": dict(usable(name).describe(spec))}
    handles = {name: engine.load_adapter(adapter) for name, engine in opened.items()}
    best = dict.fromkeys(opened, 0.0)
    for repeat in range(repeats + 1):
        for name, engine in opened.items():
            rate = _rate(engine, handles[name], VOCABULARY[size])
            if repeat:  # the first one warms up
                best[name] = max(best[name], rate)
    for name, engine in opened.items():
        engine.close()
        result[name]["tokens_per_s"] = best[name]
    return {"parameters": _parameters(checkpoint), **result, "ratio": best["llamacpp"] / best["torch"]}


def _rate(engine: Engine, adapter: str, vocabulary: int) -> float:
    rng = np.random.default_rng(SEED)
    prompts = [
        PromptTokens(f"{i:032x}", tuple(rng.integers(3, vocabulary - 1, PROMPT_TOKENS).tolist()))
        for i in range(PROMPTS)
    ]
    start = time.process_time()
    groups = list(engine.sample(prompts, K, Sampling(NEW_TOKENS), adapter))
    seconds = time.process_time() - start
    return sum(len(c.tokens) for _, group in groups for c in group) / seconds


def _parameters(folder: Path) -> int:
    from pudistill_cli.models.checkpoint_files import count_parameters, weight_files

    return count_parameters(weight_files(folder))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    name, features = cpu.name_and_features()
    record: dict[str, Any] = {
        "machine": {"cpu": name, "features": features, "cores": cpu.cores(), "platform": platform.platform()},
        "load_average": os.getloadavg()[0],
        "work": f"{PROMPTS} prompts of {PROMPT_TOKENS} tokens, K = {K}, {NEW_TOKENS} new tokens, one thread",
        "sizes": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PUDISTILL_CACHE"] = folder
        for size in options.sizes:
            record["sizes"][size] = measured = measure(size, Path(folder), options.repeats)
            rates = ", ".join(f"{n} {measured[n]['tokens_per_s']:,.0f} tok/s" for n in ("torch", "llamacpp"))
            print(f"{size:>5}: {rates}, ratio {measured['ratio']:.2f}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
