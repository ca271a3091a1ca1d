"""Peak memory of a training step a token and layer, against the formula in pudistill_cli/hardware/memory_estimate.py.

    python -m benchmarks.learner_memory
    python -m benchmarks.learner_memory --device cuda --out benchmarks/results/learner_memory_cuda.json

Each figure is the difference of two peaks, with 1,024 and 4,096 tokens in one pass, so that weights, adapter and the
framework itself cancel out; a peak is the largest of three processes, since what the kernel takes back in between only
lowers it. On a card it is what torch's allocator gave out, which one process tells. Random weights, rank 16.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.timed_runs import machine
from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec, OptimizerSpec, Row, SftBatch
from pudistill_cli.backend_api.registry import usable
from pudistill_cli.hardware.memory_estimate import MemoryDemand

RESULTS = Path(__file__).resolve().parent / "results" / "learner_memory.json"
LAYERS, VOCABULARY, ROW = 6, 4096, 256
SHAPES = ((256, 2048, 4), (512, 512, 4), (576, 1536, 9))
"""Width, feed-forward width, heads."""
TOKENS = (1024, 4096)
REPEATS = 3


def build(width: int, feed_forward: int, heads: int, out: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(out)
    return out


def step(folder: Path, device: str, dtype: Any, tokens: int) -> None:
    """One step whose rows all go through the model together."""
    spec = ModelSpec(folder, (2,), 2 * ROW, device, dtype, threads=1, token_budget=2 * tokens)
    learner = usable("torch").learn(spec, LoraSpec(r=16, alpha=32), OptimizerSpec(), None)
    half = tuple(range(3, 3 + ROW // 2))
    learner.step(SftBatch(tuple(Row(half, half) for _ in range(tokens // ROW))), 1e-4)
    learner.close()


def peak_of_process() -> int:
    """Bytes of RAM."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_on_card(folder: Path, device: str, dtype: str, tokens: int) -> int:
    """Bytes of the card's memory; what earlier steps left in the allocator's hands does not count."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    step(folder, device, dtype, tokens)
    return torch.cuda.max_memory_allocated(device)


def measure(folder: Path, device: str, dtype: str) -> float:
    """Bytes a token and layer."""
    if device == "cpu":
        few, many = (max(_cell(folder, dtype, tokens) for _ in range(REPEATS)) for tokens in TOKENS)
    else:
        few, many = (peak_on_card(folder, device, dtype, tokens) for tokens in TOKENS)
    return (many - few) / (TOKENS[1] - TOKENS[0]) / LAYERS


def _cell(folder: Path, dtype: str, tokens: int) -> int:
    command = [sys.executable, "-m", "benchmarks.learner_memory", "--cell", str(folder), dtype, str(tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return int(done.stdout.split()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(argv)
    if options.cell:
        folder, dtype, tokens = options.cell
        step(Path(folder), "cpu", dtype, int(tokens))
        print(peak_of_process())
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for width, feed_forward, heads in SHAPES:
            checkpoint = build(width, feed_forward, heads, Path(folder) / f"{width}-{feed_forward}")
            demand = MemoryDemand("llama", 0, 1, width, feed_forward)
            for dtype, size in (("float32", 4), ("bfloat16", 2)):
                formula = (demand.learner_gib(size, 1) - demand.learner_gib(size, 0)) * 2**30
                n_bytes = measure(checkpoint, options.device, dtype)
                rows.append(
                    {"width": width, "feed_forward": feed_forward, "dtype": dtype, "bytes": n_bytes, "formula": formula}
                )
                print(
                    f"{width:>4} x {feed_forward:>5} {dtype:>8}: {n_bytes:8,.0f} B, formula {formula:8,.0f}", flush=True
                )
    result = {"machine": machine(options.device), "tokens": TOKENS, "layers": LAYERS, "rows": rows}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
