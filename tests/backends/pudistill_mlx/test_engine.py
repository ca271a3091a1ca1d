"""The engine on real files: the quickstart's tokenizer, and a pretrained model that is known to be fluent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import DataError
from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_mlx import backend, device_limits
from tests.backends.pudistill_mlx.small import spec_of
from tests.tiny import STUDENT


def copied(student: Path, folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes((student / name).read_bytes())
    return folder


def test_encode_adds_nothing_and_decode_leaves_special_tokens_out() -> None:
    engine = backend.open(spec_of())
    tokenizer = Tokenizer.from_file(str(STUDENT / "tokenizer.json"))
    special = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items()}
    name, token = next(iter(special.items()))
    tokens = engine.encode(f"call Anna{name}")
    assert tokens[-1] == token
    assert not set(tokens[:-1]) & set(special.values())
    assert engine.decode(tokens) == "call Anna"


def test_a_tokenizer_without_the_fast_file(shared: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary and merges alone, as old checkpoints have them."""
    copied(STUDENT, tmp_path, "config.json", "model.safetensors")
    for file in (shared / "tokenizers" / "gpt2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    engine = backend.open(spec_of(tmp_path))
    assert engine.encode("Hello world") == (15496, 995)
    assert engine.decode((15496, 995)) == "Hello world"


def test_no_tokenizer_is_said_when_text_is_asked_for(tmp_path: Path) -> None:
    engine = backend.open(spec_of(copied(STUDENT, tmp_path, "config.json", "model.safetensors")))
    assert np.isfinite(engine.distributions((5, 6), 1, None)).all()
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        engine.encode("Hello")


def test_a_pretrained_model_tells_its_story(shared: Path) -> None:
    """Greedy from "Once upon a time" is fluent, and far likelier than noise."""
    folder = shared / "models" / "stories260K"
    engine = backend.open(ModelSpec(folder, (2,), 512, device="cpu", dtype="float32"))
    prompt = (1, *engine.encode("Once upon a time"))
    ((_, (candidate,)),) = engine.sample([PromptTokens("story", prompt)], 1, Sampling(40, temperature=0), None)
    text = engine.decode(candidate.tokens)
    assert text.startswith(", there was a little girl named Lily. She loved to play")
    noise = tuple(int(t) for t in np.random.default_rng(0).integers(3, 512, 20))
    ((_, (story, random)),) = engine.logprobs([Continuations(prompt, (candidate.tokens, noise))], None)
    assert story.mean() > -1.5 > -4 > random.mean()


def test_an_engine_alone_sets_the_devices_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation has no learner that would."""
    devices: list[str] = []
    monkeypatch.setattr(device_limits, "use_limits", devices.append)
    backend.open(spec_of()).close()
    assert devices == ["cpu"]
