"""Time and memory of one round on a model of SmolLM2-135M's exact shape, and sampling against transformers.

    python -m benchmarks.smollm2_shape --tokenizer FOLDER --questions question.jsonl [--anchors gpt-4.jsonl]
    python -m benchmarks.smollm2_shape ... --limit 8 --threads 1 --out result.json
    python -m benchmarks.smollm2_shape ... --device cuda --token-budget 4096 --out result.json

FOLDER holds config.json, tokenizer.json and tokenizer_config.json of SmolLM2-135M-Instruct; the questions and the
reference answers are MT-bench's files. The weights are random, so this shows speed and memory and says nothing
about quality. `pudistill run` is a process of its own, whose peak memory the operating system tells.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import ROOT
from benchmarks.timed_runs import machine, timed_run, verifications

RESULTS = ROOT / "benchmarks" / "results" / "smollm2_shape.json"
SEED = 0
K, NEW_TOKENS = 4, 64
HELD_OUT = 2
"""Second turns that stand in for dev, and for test."""
ENDS_EVERY = 32
"""Tokens after which a random answer ends, on average: without that every candidate is cut off and masked."""
CONSTANT = 4.0
TOKEN_BUDGET = 1024
"""Of a forward pass: peak memory grows with it, and on a CPU a larger one is slower, for its padding."""
PEER_PROMPTS, REPEATS = 8, 3


# --- the student and its task -------------------------------------------------------------------


def build_student(tokenizer: Path, out: Path) -> Path:
    """A checkpoint with seeded random weights in bfloat16, of the shape that `tokenizer/config.json` says."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tokenizer)).to(torch.bfloat16).eval()
    _let_it_end(model)
    model.save_pretrained(out)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)
    return out


def _let_it_end(model: Any) -> None:
    """Make the end of turn about 1 / ENDS_EVERY likely everywhere.

    Channel 0 of the residual stream is given one value for all tokens, which no layer writes to. It adds a constant
    to every logit of the tied head; the embedding of the end of turn has more of it than the others have.
    """
    import torch

    table, end = model.get_input_embeddings().weight, model.config.eos_token_id
    ids = torch.randint(1000, 40000, (4, 64), generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        table[:, 0] = CONSTANT
        for layer in model.base_model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        hidden = model.base_model(input_ids=ids).last_hidden_state.float()
        others = (hidden @ table.float().T).logsumexp(-1).mean()
        wanted = others - math.log(ENDS_EVERY - 1)
        table[end] = 0
        table[end, 0] = wanted / hidden[..., 0].mean()


def write_task(folder: Path, questions: Path, anchors: Path | None, limit: int) -> None:
    """Prompts and anchors: `limit` first turns to train on, some second turns as held-out prompts.

    A question without a reference answer is given that of another one; without any, the text of another question.
    """
    asked = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    known: dict[int, str] = {}
    if anchors is not None:
        records = [json.loads(line) for line in anchors.read_text(encoding="utf-8").splitlines()]
        known = {record["question_id"]: record["choices"][0]["turns"][0] for record in records}
    asked.sort(key=lambda q: q["question_id"] not in known)  # those with a reference answer first
    first = [(q["turns"][0], known.get(q["question_id"])) for q in asked[:limit]]
    second = [(q["turns"][1], None) for q in asked[: 2 * HELD_OUT]]
    pool = list(known.values()) or [q["turns"][0] for q in reversed(asked)]
    sets = {"train": first, "dev": second[:HELD_OUT], "test": second[HELD_OUT:]}
    for name, rows in sets.items():
        _write_lines(folder / f"{name}.jsonl", [{"prompt": prompt} for prompt, _ in rows])
    rows = [row for part in sets.values() for row in part]
    answers = [answer or pool[i % len(pool)] for i, (_, answer) in enumerate(rows)]
    _write_lines(
        folder / "anchors.jsonl",
        [{"prompt": p, "answer": a} for (p, _), a in zip(rows, answers, strict=True)],
    )


def write_recipe(
    folder: Path,
    student: Path,
    threads: int | None,
    token_budget: int = TOKEN_BUDGET,
    device: str = "cpu",
    new_tokens: int = NEW_TOKENS,
) -> Path:
    """One round of the default method, with little evaluation; JSON is YAML."""
    recipe = {
        "name": "smollm2-shape",
        "seed": SEED,
        "student": {"model": str(student), "device": device, "threads": threads, "token_budget": token_budget},
        "teacher": {"kind": "file", "path": "anchors.jsonl"},
        "prompts": {name: f"{name}.jsonl" for name in ("train", "dev", "test")},
        "sft": {"epochs": 1, "students": 1},
        "rank": {"scorer": "likelihood", "gates": False},
        "prefer": {"k": K, "rounds": 1, "max_new_tokens": new_tokens, "prior_start": 0.0, "prior_stop": 1.0},
        "eval": {"temperatures": [1.0], "dev_temperatures": [1.0], "samples": 1},
        "export": {"formats": ["hf", "adapter"]},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    return path


def _write_lines(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


# --- the run ------------------------------------------------------------------------------------


def run_recipe(recipe: Path) -> dict[str, Any]:
    """`pudistill run` in a process of its own: seconds of its stages, rates, peak memory, and the exports' proofs.

    Raises:
        SystemExit: the run did not end well; what it said is in the message.
    """
    events, spent = timed_run([str(recipe)], recipe.parent, PUDISTILL_CACHE=str(recipe.parent / "cache"))
    folder = recipe.parent / "runs" / "smollm2-shape"
    return {**spent, "rates": _rates(folder, events, spent["stages"]), "exports": verifications(folder)}


def _rates(folder: Path, events: list[dict[str, Any]], stages: Mapping[str, float]) -> dict[str, float]:
    """Tokens a second: drawn in sampling, supervised or scored in training."""
    import sqlite3

    with sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True) as ledger:
        (drawn,) = ledger.execute("SELECT sum(json_array_length(tokens)) FROM candidates").fetchone()
        (cut_off,) = ledger.execute("SELECT avg(finish = 'length') FROM candidates").fetchone()
    trained = {
        stage: sum(e["tokens"] for e in events if e["event"] == "metrics" and e["stage"] == stage and "tokens" in e)
        for stage in ("sft", "prefer")
    }
    return {
        "sampling": drawn / stages["round 1: sampling"],
        "sft": trained["sft"] / stages["SFT"],
        "update": trained["prefer"] / stages["round 1: ldl-grpo"],
        "cut_off_share": cut_off,
    }


# --- sampling against a peer --------------------------------------------------------------------


def against_transformers(student: Path, folder: Path, threads: int | None, device: str = "cpu") -> dict[str, Any]:
    """New tokens a second of the torch engine and of `generate(num_return_sequences=K)`: same prompts, dtype, device.

    Nothing ends early on either side. Warmed up, in turns, the best of REPEATS: the machine may be shared.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from pudistill_cli.backend_api.contract import ModelSpec
    from pudistill_cli.backend_api.registry import backends
    from pudistill_cli.models.tokenizer import StudentTokenizer
    from pudistill_cli.prompt_files import read_prompts
    from pudistill_cli.types import PromptTokens, Sampling

    prompts = read_prompts(folder / "train.jsonl").prompts[:PEER_PROMPTS]
    tokenizer = StudentTokenizer.load(student)
    tokens = [tokenizer.encode_prompt(prompt.messages) for prompt in prompts]
    spec = ModelSpec(student, stop_tokens=(-1,), context=4096, dtype="bfloat16", device=device, threads=threads)
    engine = backends()["torch"].open(spec)
    peer = AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16).to(device).eval()
    longest = max(map(len, tokens))
    ids = torch.tensor([[0] * (longest - len(t)) + list(t) for t in tokens], device=device)
    mask = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in tokens], device=device)

    def ours(new: int) -> None:
        requests = [PromptTokens(p.key, t) for p, t in zip(prompts, tokens, strict=True)]
        drawn = list(engine.sample(requests, K, Sampling(new, seed=SEED), None))
        assert all(len(c.tokens) == new for _, group in drawn for c in group)

    def theirs(new: int) -> None:
        torch.manual_seed(SEED)
        with torch.inference_mode():
            out = peer.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
                num_return_sequences=K, max_new_tokens=new, min_new_tokens=new,
            )  # fmt: skip
        assert out.cpu().shape == (len(tokens) * K, longest + new)

    rates = _in_turns({"pudistill": ours, "transformers": theirs}, len(tokens) * K * NEW_TOKENS)
    engine.close()
    return {
        "prompts": len(tokens),
        "prompt_tokens": sum(map(len, tokens)),
        "k": K,
        "new_tokens": NEW_TOKENS,
        "dtype": "bfloat16",
        "threads": torch.get_num_threads(),
        "tokens_per_second": {name: max(measured) for name, measured in rates.items()},
        "every_repeat": rates,
        "ratio": max(rates["pudistill"]) / max(rates["transformers"]),
    }


def _in_turns(sides: Mapping[str, Callable[[int], None]], tokens: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(4)  # warm up
    for _ in range(REPEATS):
        for name, side in sides.items():
            started = time.monotonic()
            side(NEW_TOKENS)
            rates[name].append(tokens / (time.monotonic() - started))
    return rates


def main() -> None:
    """Build, run, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="config and tokenizer of SmolLM2-135M-Instruct")
    parser.add_argument("--questions", type=Path, required=True, help="MT-bench's question.jsonl")
    parser.add_argument("--anchors", type=Path, help="MT-bench's reference_answer/gpt-4.jsonl")
    parser.add_argument("--limit", type=int, default=80, help="questions to train on")
    parser.add_argument("--device", default="cpu", help="as student.device: cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")
    parser.add_argument("--token-budget", type=int, default=TOKEN_BUDGET, help="tokens of a pass, padding included")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        student = build_student(options.tokenizer, folder / "student")
        write_task(folder, options.questions, options.anchors, options.limit)
        before = machine(options.device)
        recipe = write_recipe(folder, student, options.threads, options.token_budget, options.device)
        run = run_recipe(recipe)
        peer = against_transformers(student, folder, options.threads, options.device)
    settings = {
        "questions": options.limit,
        "k": K,
        "new_tokens": NEW_TOKENS,
        "device": options.device,
        "threads": options.threads,
        "token_budget": options.token_budget,
    }
    result = {"machine": before, "settings": settings, "run": run, "sampling_against_transformers": peer}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
