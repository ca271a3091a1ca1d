"""Sampling K candidates a prompt in MLX, against mlx-lm's own batch generation of K copies of each prompt.

    python -m benchmarks.mlx_sampling                                        # a small random Llama: minutes on a CPU
    python -m benchmarks.mlx_sampling --model FOLDER --prompt 64 512 2048 --new 128 --out mac.json      # on a Mac

Both sides hold the same weights in the same precision on the same device and draw from the same distribution; nothing
ends early. They run in turns after a warm-up, the best of REPEATS counts. `fed` is how many times more tokens the peer
puts through the model: what the gain tends to where prefilling is all the work. Our side returns log-probs as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm import batch_generate
from mlx_lm.sample_utils import make_sampler
from mlx_lm.utils import load_model
from safetensors.numpy import save_file

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.types import PromptTokens, Sampling
from pudistill_mlx import backend
from pudistill_mlx.engine import MlxEngine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mlx_sampling.json"
SEED, REPEATS = 0, 3
VOCABULARY = 4096
SHAPE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def random_llama(folder: Path) -> Path:
    """A checkpoint of SHAPE with seeded weights, written without torch."""
    rng = np.random.default_rng(SEED)
    width, inner = 256, 704
    shapes = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    weights = {"model.embed_tokens.weight": rng.normal(scale=0.05, size=(VOCABULARY, width))}
    for layer in range(4):
        block = f"model.layers.{layer}."
        weights |= {f"{block}{name}.weight": rng.normal(scale=0.05, size=shape) for name, shape in shapes.items()}
        weights |= {f"{block}{name}_layernorm.weight": np.ones(width) for name in ("input", "post_attention")}
    weights["model.norm.weight"] = np.ones(width)
    save_file({name: w.astype(np.float32) for name, w in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    return folder


def random_prompts(count: int, length: int, vocabulary: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(SEED)
    return [tuple(int(t) for t in rng.integers(3, vocabulary, length)) for _ in range(count)]


class Peer:
    """mlx-lm: K copies of each prompt, all rows decoded together, no text made of the tokens."""

    def __init__(self, folder: Path, dtype: mx.Dtype) -> None:
        self._model, _ = load_model(folder)
        self._model.set_dtype(dtype)
        mx.eval(self._model.parameters())
        self._tokenizer = SimpleNamespace(eos_token_ids=(), decode=lambda ids: "")

    def sample(self, prompts: list[tuple[int, ...]], k: int, new: int) -> int:
        """Tokens drawn."""
        mx.random.seed(SEED)
        copies = [list(prompt) for prompt in prompts for _ in range(k)]
        generated = batch_generate(
            self._model,
            self._tokenizer,
            copies,
            max_tokens=new,
            sampler=make_sampler(temp=1.0),
            completion_batch_size=len(copies),
            return_token_ids=True,
        )
        return sum(map(len, generated.token_ids))


def ours(engine: MlxEngine, prompts: list[tuple[int, ...]], k: int, new: int) -> int:
    """Tokens drawn."""
    asked = [PromptTokens(str(i), prompt) for i, prompt in enumerate(prompts)]
    return sum(len(c.tokens) for _, group in engine.sample(asked, k, Sampling(new, seed=SEED), None) for c in group)


def measured(work: Callable[[], int]) -> tuple[float, float]:
    """Tokens a second, and the peak of MLX's memory in MiB."""
    mx.clear_cache()
    mx.reset_peak_memory()
    started = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - started), mx.get_peak_memory() / 2**20


def compared(engine: MlxEngine, peer: Peer, count: int, length: int, k: int, new: int) -> dict[str, Any]:
    """Both sides in turns on `count` prompts of one length."""
    prompts = random_prompts(count, length, engine.model.head.vocabulary)
    sides = {"pudistill": lambda: ours(engine, prompts, k, new), "mlx_lm": lambda: peer.sample(prompts, k, new)}
    repeats: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for name, side in sides.items():  # warm-up
        assert side() == count * k * new, name
    for _ in range(REPEATS):
        for name, side in sides.items():
            repeats[name].append(measured(side))
    best = {name: max(rates)[0] for name, rates in repeats.items()}
    result = {
        "prompt": length,
        "tokens_per_second": best,
        "every_repeat": {name: [rate for rate, _ in rates] for name, rates in repeats.items()},
        "peak_mib": {name: max(peak for _, peak in rates) for name, rates in repeats.items()},
        "ratio": best["pudistill"] / best["mlx_lm"],
        "fed": k * (length + new) / (length + k * new),
    }
    print(f"  prompts of {length}: {result['ratio']:.2f}x, {result['fed']:.2f} times fewer tokens fed", flush=True)
    return result


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": cpu.name_and_features()[0],
        "cores": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    """Build or open the model, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint in Hugging Face form; a small random one, if not said")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--prompt", type=int, nargs="+", default=[8, 64, 256], help="lengths in tokens")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--new", type=int, default=16, help="tokens drawn for each candidate")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or random_llama(Path(name))
        context = max(options.prompt) + options.new
        # No id is -1: nothing ends an answer.
        engine = backend.open(ModelSpec(folder, stop_tokens=(-1,), context=context))
        placement = engine.model.placement
        peer = Peer(folder, placement.mlx_dtype)
        result = {
            "machine": before | dict(placement.describe()),
            "settings": {"model": options.model.name if options.model else SHAPE, "seed": SEED}
            | {"prompts": options.prompts, "k": options.k, "new": options.new},
            "lengths": [
                compared(engine, peer, options.prompts, length, options.k, options.new) for length in options.prompt
            ],
        }
        engine.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
