"""A DPO step in MLX, against mlx-lm-lora's on the same pairs, model, rank and optimizer.

    python -m benchmarks.mlx_training                                        # a small random Llama: minutes on a CPU
    python -m benchmarks.mlx_training --model FOLDER --pairs 4 --prompt 512 --answer 128 --out mac.json      # on a Mac

mlx-lm-lora is no dependency of ours: pip install mlx-lm-lora, in an environment of its own. Both sides are timed on
whole steps with their reference log-probs, which theirs scores with a second copy of the model, ours with the base
under the adapter. In turns after a warm-up, the best of all steps counts. Memory is what a side holds before its first
step, and the most that a step takes above what it finds. There is no padding: all rows have one length.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx.optimizers import AdamW
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from benchmarks.mlx_sampling import SHAPE, machine, random_llama
from pudistill_cli.backend_api.contract import GroupBatch, LoraSpec, ModelSpec, OptimizerSpec, Row, TrainGroup
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Continuations
from pudistill_mlx import backend

RESULTS = Path(__file__).resolve().parent / "results" / "mlx_training.json"
SEED, TURNS, STEPS = 0, 2, 2
RANK, SCALE, LR, BETA = 16, 2.0, 1e-4, 0.1
Pair = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Prompt, chosen answer, rejected answer."""


def random_pairs(count: int, prompt: int, answer: int, vocabulary: int) -> list[Pair]:
    rng = np.random.default_rng(SEED)

    def some(length: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, vocabulary, length))

    return [(some(prompt), some(answer), some(answer)) for _ in range(count)]


class Side(Protocol):
    """One way to train."""

    held: int
    """Bytes before the first step: weights and adapters."""

    def steps(self, pairs: list[Pair], count: int) -> list[tuple[float, float]]:
        """Loss and seconds of each of `count` steps on all pairs; of a first one too, which is a warm-up."""
        ...


class Ours:
    """Chosen and rejected answer behind one pass over their prompt; the reference is the adapter's own base."""

    def __init__(self, folder: Path, context: int) -> None:
        before = mx.get_active_memory()
        spec = ModelSpec(folder, stop_tokens=(0,), context=context)
        self._learner = backend.learn(spec, LoraSpec(RANK, RANK * SCALE, SEED), OptimizerSpec(clip_norm=1e9), None)
        self.dtype = self._learner.model.placement.mlx_dtype
        self.describe = dict(self._learner.model.placement.describe())
        self.held = mx.get_active_memory() - before

    def steps(self, pairs: list[Pair], count: int) -> list[tuple[float, float]]:
        measured: list[tuple[float, float]] = []
        for _ in range(1 + count):
            started = time.perf_counter()
            loss = self._learner.step(self._batch(pairs), LR)["loss"]
            measured.append((loss, time.perf_counter() - started))
        return measured

    def _batch(self, pairs: list[Pair]) -> GroupBatch:
        requests = [Continuations(prompt, (chosen, rejected)) for prompt, chosen, rejected in pairs]
        scored = dict(self._learner.logprobs(requests, None))
        groups = [
            TrainGroup((Row(prompt, chosen), Row(prompt, rejected)), scored[i], scored[i], _PAIR)
            for i, (prompt, chosen, rejected) in enumerate(pairs)
        ]
        return GroupBatch(Dpo(beta=BETA, nll=0.0), tuple(groups))


_PAIR = Targets(
    member=np.ones(2),
    anchor=np.array([1.0, 0.0]),
    slots=np.ones(2),
    label=np.full(2, 0.5),
    advantage=np.zeros(2),
    posterior=np.array([1.0, 0.0]),
    pairs=np.array([[1.0, -1.0]]),
    pair_weight=np.ones(1),
    pair_smoothing=np.zeros(1),
)
"""The first row is preferred to the second."""


class Theirs:
    """mlx-lm-lora's trainer, with mlx-lm's LoRA on every linear layer."""

    def __init__(self, folder: Path, context: int, dtype: mx.Dtype) -> None:
        before = mx.get_active_memory()
        self._model, self._reference = (load_model(folder)[0] for _ in range(2))
        for model in (self._model, self._reference):
            model.set_dtype(dtype)
            model.freeze()
        mx.random.seed(SEED)
        config = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
        linear_to_lora_layers(self._model, len(self._model.layers), config)
        self._optimizer = AdamW(LR, betas=[0.9, 0.98], weight_decay=0.0, bias_correction=True)
        mx.eval(self._model.parameters(), self._reference.parameters())
        self.held = mx.get_active_memory() - before
        self._context = context

    def steps(self, pairs: list[Pair], count: int) -> list[tuple[float, float]]:
        from mlx_lm_lora.trainer.dpo_trainer import DPOTrainingArgs, train_dpo

        clock = _Clock()
        with tempfile.TemporaryDirectory() as folder, _device_that_recommends():
            arguments = DPOTrainingArgs(
                batch_size=len(pairs),
                iters=count + 1,
                steps_per_report=1,
                steps_per_save=count + 2,
                max_seq_length=self._context,
                adapter_file=str(Path(folder) / "adapters.safetensors"),
                beta=BETA,
            )
            train_dpo(
                self._model, self._reference, self._optimizer, [_example(p) for p in pairs], args=arguments,
                training_callback=clock,
            )  # fmt: skip
        return clock.steps


class _Clock:
    """mlx-lm's callback: a report comes at the end of each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self._last = time.perf_counter()

    def on_train_loss_report(self, info: dict[str, float]) -> None:
        now = time.perf_counter()
        self.steps.append((info["train_loss"], now - self._last))
        self._last = now

    def on_val_loss_report(self, info: dict[str, float]) -> None:
        """There is no validation."""


def _example(pair: Pair) -> dict[str, Any]:
    prompt, chosen, rejected = pair
    return {
        "chosen": [*prompt, *chosen],
        "rejected": [*prompt, *rejected],
        "chosen_prompt_length": len(prompt),
        "rejected_prompt_length": len(prompt),
    }


@contextmanager
def _device_that_recommends() -> Iterator[None]:
    """Their trainer asks for a GPU's working set, which a CPU does not name."""
    if mx.default_device() == mx.gpu:
        yield
        return
    info, limit = mx.device_info, mx.set_wired_limit
    mx.device_info = lambda *given: {**info(*given), "max_recommended_working_set_size": 8 << 30}
    mx.set_wired_limit = lambda _: 0
    try:
        yield
    finally:
        mx.device_info, mx.set_wired_limit = info, limit


def compared(sides: dict[str, Side], pairs: list[Pair]) -> dict[str, Any]:
    """Both sides in turns; both losses begin at log 2, where policy and reference are one."""
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0.0)
    for _ in range(TURNS):
        for name, side in sides.items():
            mx.clear_cache()
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            (loss, _), *timed = side.steps(pairs, STEPS)
            first.setdefault(name, loss)
            seconds[name] += [taken for _, taken in timed]
            peaks[name] = max(peaks[name], mx.get_peak_memory() - before + side.held)
            print(f"  {name}: {seconds[name][-1]:.2f} s a step, {peaks[name] / 2**20:.0f} MiB", flush=True)
    tokens = sum(len(prompt) * 2 + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs)
    best = {name: tokens / min(taken) for name, taken in seconds.items()}
    return {
        "first_loss": first,
        "tokens_per_second": best,
        "seconds_of_every_step": seconds,
        "peak_mib": {name: peak / 2**20 for name, peak in peaks.items()},
        "held_mib": {name: side.held / 2**20 for name, side in sides.items()},
        "speed_ratio": best["pudistill"] / best["mlx_lm_lora"],
        "memory_ratio": peaks["pudistill"] / peaks["mlx_lm_lora"],
    }


def main() -> None:
    """Build or open the model, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint in Hugging Face form; a small random one, if not said")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=96, help="tokens")
    parser.add_argument("--answer", type=int, default=32, help="tokens")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = machine() | {"mlx_lm_lora": version("mlx-lm-lora")}
    with tempfile.TemporaryDirectory() as name:
        folder = options.model or random_llama(Path(name))
        context = options.prompt + options.answer
        ours = Ours(folder, context)
        sides: dict[str, Side] = {"pudistill": ours, "mlx_lm_lora": Theirs(folder, context, ours.dtype)}
        vocabulary = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        pairs = random_pairs(options.pairs, options.prompt, options.answer, vocabulary)
        result = {
            "machine": before | ours.describe,
            "settings": {"model": options.model.name if options.model else SHAPE, "seed": SEED, "rank": RANK}
            | {"pairs": options.pairs, "prompt": options.prompt, "answer": options.answer},
            **compared(sides, pairs),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
