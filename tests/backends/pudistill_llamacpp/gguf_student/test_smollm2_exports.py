"""What a real quantised student learned comes out of llama.cpp: merged in the default type, and as an adapter on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.errors import NotTheTrainedModel
from pudistill_cli.models.original import text_difference
from pudistill_cli.models.student import resolve_student
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.stages.export_rule import check, with_runtimes
from pudistill_cli.stages.verification import Comparison, Distributions, mean_kl
from pudistill_cli.types import Message, PromptTokens
from pudistill_llamacpp.exporting import check_export, open_base, open_export, write_export
from pudistill_torch import backend as torch_backend
from tests.backends.pudistill_llamacpp.gguf_student.files import save_adapter
from tests.backends.pudistill_llamacpp.gguf_student.test_trained_answers import (
    FORMATS,
    LENGTH,
    Trained,
    distributions,
    greedy,
)

QUESTIONS = ("Add lunch with Ann on Friday at noon.", "Cancel the dentist.", "What is on Monday?", "Move yoga to 7 pm.")
NOISE = 0.3
"""Nats between the two likeliest tokens below which rounding may choose the other."""


@pytest.mark.slow
def test_the_trained_model_comes_out_of_llama_cpp(cached_smollm2: Path, tmp_path: Path) -> None:
    """Against the grid that its weights came from, on which most of the same training is lost."""
    student = resolve_student(str(cached_smollm2.resolve()))
    adapter = save_adapter(student.folder, tmp_path / "adapter", std=0.25)
    asked = [student.tokenizer.encode_prompt([Message("user", text)]) for text in QUESTIONS]
    prompts = [PromptTokens(f"key-{i}", tokens) for i, tokens in enumerate(asked)]
    one = Trained(cached_smollm2.resolve(), adapter, prompts, ())
    engine = torch_backend.open(one.spec)
    handle = engine.load_adapter(adapter)
    one = Trained(one.file, adapter, prompts, greedy(engine, handle, prompts))
    trained, base = distributions(engine, handle, one), distributions(engine, None, one)
    assert all(a != b for a, b in zip(one.answers, greedy(engine, None, prompts), strict=True))
    engine.close()

    for target in (*FORMATS, Target("gguf", "q4_1", ("q8_0",))):
        request = one.request(target, tmp_path / str(target))
        written = write_export(request)
        check_export(request, written, QUESTIONS)
        engine, name = open_export(request, written, one.spec)
        exported = distributions(engine, name, one)
        engine.close()

        def of_base(request=request) -> float:
            bare = open_base(request, one.spec)
            kl = mean_kl(base, distributions(bare, None, one))
            bare.close()
            return kl

        comparison = Comparison(len(prompts), mean_kl(trained, exported), mean_kl(trained, base), 0.0, 0, 0)
        comparison = with_runtimes(comparison, written.kl_limit, of_base)
        print(target, comparison)
        if target.variant == "q4_1":
            with pytest.raises(NotTheTrainedModel, match="would lose"):
                check(target, comparison, written.kl_limit, may_lose=False)
            continue
        check(target, comparison, written.kl_limit, may_lose=not target.larger)
        assert_same_choices(trained, exported)


def assert_same_choices(trained: Distributions, exported: Distributions) -> None:
    """Greedy, token by token of the trained model's answers, but where two tokens are as good as equal."""
    for ours, theirs in zip(trained, exported, strict=True):
        ordered = np.sort(ours, axis=-1)
        clear = ordered[:, -1] - ordered[:, -2] > NOISE
        assert clear.sum() >= LENGTH / 2
        np.testing.assert_array_equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])


def test_the_hub_s_tokenizer_files_make_its_weights_an_original(
    cached_smollm2: Path, shared: Path, tmp_path: Path
) -> None:
    student = resolve_student(str(cached_smollm2.resolve()))
    shutil.copytree(student.folder, tmp_path / "original", ignore=shutil.ignore_patterns("*.safetensors"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "tokenizers" / "smollm2-135m-instruct" / file, tmp_path / "original")
    original = StudentTokenizer.load(tmp_path / "original")
    assert text_difference(student.tokenizer, original, "chat") is None
