"""What the llama.cpp engine is compared with: transformers, llama-cpp-python's own object, and llama-batched-bench."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

Prompts = Sequence[tuple[int, ...]]


class Transformers:
    """`generate` with an adapter by peft, every candidate a row, in one dtype."""

    def __init__(self, student: Path, adapter: Path, dtype: str, threads: int) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._torch = torch
        base = AutoModelForCausalLM.from_pretrained(student, dtype=getattr(torch, dtype))
        self._model = PeftModel.from_pretrained(base, str(adapter)).eval()

    def sample(self, prompts: Prompts, k: int, new: int) -> int:
        """Tokens drawn."""
        self._torch.manual_seed(0)
        ids = self._torch.tensor(prompts)
        with self._torch.inference_mode():
            out = self._model.generate(
                input_ids=ids, attention_mask=self._torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                top_p=1.0, num_return_sequences=k, max_new_tokens=new, min_new_tokens=new, pad_token_id=0,
            )  # fmt: skip
        assert out.shape == (len(prompts) * k, ids.shape[1] + new)
        return len(prompts) * k * new


class HighLevel:
    """llama-cpp-python's `Llama` on the same file: one answer after another, a repeated prompt's prefix kept."""

    def __init__(self, file: Path, lora: Path, threads: int, n_ctx: int) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            str(file), lora_path=str(lora), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, flash_attn=True,
            n_gpu_layers=0, seed=0, verbose=False,
        )  # fmt: skip

    def sample(self, prompts: Prompts, k: int, new: int) -> int:
        """Tokens drawn."""
        drawn = 0
        for prompt in prompts:
            for _ in range(k):
                answer = self._llama.generate(
                    list(prompt), temp=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repeat_penalty=1.0
                )
                drawn += len(list(islice(answer, new)))
        return drawn

    def close(self) -> None:
        self._llama.close()


def batched_bench(program: Path, file: Path, sequences: int, prompt: int, new: int, threads: int) -> float:
    """Tokens a second that llama.cpp's own benchmark decodes; it draws none."""
    command = [
        str(program), "-m", str(file), "-npp", str(prompt), "-ntg", str(new), "-npl", str(sequences),
        "-c", str(sequences * 256), "-b", "2048", "-ub", "512", "-t", str(threads), "-tb", str(threads), "-fa", "on",
        "-ngl", "0", "--output-format", "jsonl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return float(records[-1]["speed_tg"])


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds of every call of a method, while the block lasts."""
    from time import perf_counter

    real, seconds = getattr(owner, name), []

    def method(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            seconds.append(perf_counter() - started)

    setattr(owner, name, method)
    try:
        yield seconds
    finally:
        setattr(owner, name, real)
