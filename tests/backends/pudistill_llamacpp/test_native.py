"""The layer over llama.cpp's C interface: every failure is an error of ours, and nothing is printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.errors import BackendError, DataError
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model
from tests.backends.random_models import save_model

SETTINGS = ContextSettings(n_ctx=4 * 256, n_seq_max=4, n_batch=64, n_ubatch=64, kv="f32", flash=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    return write_gguf(save_model("llama", folder / "llama"), folder / "llama.gguf", dtype="f32").path


@pytest.fixture(scope="module")
def model(file: Path) -> Iterator[Model]:
    opened = Model.open(file)
    yield opened
    opened.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    opened = Context(model, SETTINGS)
    yield opened
    opened.close()


# --- files ---


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_error(
    file: Path, tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"cut.gguf is no whole GGUF file: \w+") as caught:
        Model.open(tmp_path / "cut.gguf")
    assert "copy it again" in caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_refused(file: Path, tmp_path: Path) -> None:
    """Bytes of the metadata overwritten, in steps over all of it; some changes do no harm, none ends the process."""
    whole, refused = file.read_bytes(), 0
    for at in range(0, 4000, 250):
        (tmp_path / "bad.gguf").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
        try:
            Model.open(tmp_path / "bad.gguf").close()
        except DataError:
            refused += 1
    assert refused >= 8


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        Model.open(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("This is no GGUF file, though it is long enough.")
    with pytest.raises(DataError, match="does not begin with GGUF"):
        Model.open(tmp_path / "text.gguf")


def test_nothing_is_printed(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = Model.open(file)
    context = Context(model, SETTINGS)
    context.decode([5, 6], [0, 1], 0)
    context.close()
    model.close()
    assert capfd.readouterr() == ("", "")


def test_what_the_file_says(model: Model) -> None:
    assert model.metadata["general.architecture"] == "llama"
    assert model.metadata["llama.block_count"] == "2"
    assert model.context_length == 256
    # Keys and values, 2 layers, 2 heads of width 24.
    assert model.kv_entries == 2 * 2 * 2 * 24


# --- vocabulary ---


def test_special_tokens_are_parsed_only_when_asked(model: Model) -> None:
    vocabulary = model.vocabulary
    assert (vocabulary.bos, vocabulary.eos, vocabulary.kind, vocabulary.size) == (1, 2, "spm", 512)
    assert 2 in vocabulary.ends
    assert vocabulary.encode("the</s>", special=True)[-1] == 2
    assert 2 not in vocabulary.encode("the</s>", special=False)
    assert vocabulary.encode("the", special=True, add_special=True)[0] == 1
    tokens = vocabulary.encode("the day é", special=False)
    assert vocabulary.decode((*tokens, 2), special=False).strip() == "the day é"
    assert vocabulary.decode((*tokens, 2), special=True).strip() == "the day é</s>"


# --- context ---


def test_logits_come_in_the_order_of_the_batch(context: Context) -> None:
    """Sequences of uneven length, mixed, some of which want none: each row equals the sequence's alone."""
    tokens = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    alone = []
    for sequence, ids in enumerate(tokens):
        alone.append(context.decode(ids, range(len(ids)), sequence).copy())
    context.clear()
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (1, 1), (0, 2), (0, 3), (2, 2), (0, 4)]
    wants = [False, True, True, True, False, True, False, True, True, True]
    logits = context.decode([tokens[s][p] for s, p in order], [p for _, p in order], [s for s, _ in order], wants)
    expected = [alone[s][p] for (s, p), wanted in zip(order, wants, strict=True) if wanted]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_copied_sequence_goes_on_by_itself(context: Context) -> None:
    context.decode([5, 6, 7], [0, 1, 2], 0)
    context.copy(0, [1, 2])
    context.remove(0)
    logits = context.decode([8, 9], [3, 3], [1, 2]).copy()
    for row, last in zip(logits, (8, 9), strict=True):
        context.clear()
        np.testing.assert_allclose(row, context.decode([5, 6, 7, last], range(4), 0)[-1], atol=1e-5)


def test_a_removed_end_is_forgotten(context: Context) -> None:
    expected = context.decode([5, 6, 7], [0, 1, 2], 0)[-1].copy()
    context.remove(0, 1)
    np.testing.assert_array_equal(context.decode([6, 7], [1, 2], 0)[-1], expected)


def test_what_llama_cpp_would_abort_on_is_an_exception(context: Context) -> None:
    with pytest.raises(ValueError, match="65 tokens"):
        context.decode([5] * 65, range(65), 0)
    with pytest.raises(BackendError, match="failed to compute a batch"):
        context.decode([100_000], [0], 0)
    context.clear()
    for start in range(0, 256, 64):
        context.decode([5] * 64, range(start, start + 64), 0)
    with pytest.raises(BackendError, match="is full"):
        context.decode([5], [256], 0)


def test_a_context_that_cannot_be_made_says_why(model: Model) -> None:
    # Values in q8_0 come in blocks of 32; this model's heads are 24 wide.
    with pytest.raises(BackendError, match="block size 32"):
        Context(model, ContextSettings(n_ctx=256, kv="q8_0"))


def test_closed_things_do_not_crash(file: Path) -> None:
    model = Model.open(file)
    context = Context(model, SETTINGS)
    context.close()
    context.close()
    with pytest.raises(BackendError, match="closed"):
        context.decode([5], [0], 0)
    model.close()
    with pytest.raises(BackendError, match="closed"):
        Context(model, SETTINGS)
