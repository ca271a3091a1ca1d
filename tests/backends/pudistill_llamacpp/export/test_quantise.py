"""What llama.cpp quantises: the types really written, the size known before, and one error each for what goes wrong."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants

from pudistill_cli.errors import ExportError
from pudistill_llamacpp.imatrix import importance_matrix
from pudistill_llamacpp.quantisations import Width, most_bytes, quant_problem, quantisations, wants_importance
from pudistill_llamacpp.quantise import quantise
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_gguf, random_tokens

NAMES = list(quantisations())


@pytest.fixture(scope="module")
def importance(wide_gguf: Path) -> dict[str, np.ndarray]:
    return importance_matrix(wide_gguf, [tuple(random_tokens(768).tolist())])


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: t.data for t in GGUFReader(path).tensors}


def widths(path: Path) -> list[Width]:
    return [Width(t.name, int(t.shape[0]), int(t.n_elements)) for t in GGUFReader(path).tensors]


# --- names ---


def test_the_names_that_people_use_are_there() -> None:
    assert {"q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "f16", "bf16", "f32", "iq4_xs", "q2_k"} <= {*NAMES}
    assert "guessed" not in NAMES


@pytest.mark.parametrize(("name", "meant"), [("q4_km", "q4_k_m"), ("Q8_0", "q8_0"), ("q8", "q8_0"), ("int4", None)])
def test_an_unknown_name_lists_those_that_are_there(name: str, meant: str | None, wide_gguf: Path) -> None:
    with pytest.raises(ExportError, match="has no quantisation") as caught:
        quantise(wide_gguf, wide_gguf.with_name("never.gguf"), name)
    assert caught.value.message == quant_problem(name)
    assert "q5_k_m" in caught.value.message
    assert (f"did you mean {meant!r}" in caught.value.message) == (meant is not None)


# --- types ---


def test_a_mixture_as_it_is_written(wide_gguf: Path, tmp_path: Path) -> None:
    """Of two blocks, q4_k_m gives the last one's value and down projections more bits, and tied embeddings six."""
    file = quantise(wide_gguf, tmp_path / "q.gguf", "q4_k_m")
    assert file.types == {
        "token_embd": {"Q6_K": 1},
        "output_norm": {"F32": 1},
        "attn_norm": {"F32": 2},
        "attn_q": {"Q4_K": 2},
        "attn_k": {"Q4_K": 2},
        "attn_v": {"Q4_K": 1, "Q6_K": 1},
        "attn_output": {"Q4_K": 2},
        "ffn_norm": {"F32": 2},
        "ffn_gate": {"Q4_K": 2},
        "ffn_up": {"Q4_K": 2},
        "ffn_down": {"Q4_K": 1, "Q6_K": 1},
    }
    assert file.fallbacks == 0
    assert file.nbytes == (tmp_path / "q.gguf").stat().st_size
    assert file.report()["types"] == file.types


def test_narrow_rows_fall_back_and_are_counted(stories_gguf: Path, tmp_path: Path) -> None:
    """64 columns hold no block of 256, 172 not even one of 32: all 5 x 7 matrices and the embeddings fall back."""
    file = quantise(stories_gguf, tmp_path / "q.gguf", "q4_k_m")
    assert file.fallbacks == 36
    assert file.types["attn_q"] == {"Q5_0": 5}
    assert file.types["ffn_down"] == {"F16": 5}
    assert quantise(stories_gguf, tmp_path / "q.gguf", "q8_0").fallbacks == 5  # the down projections
    assert quantise(stories_gguf, tmp_path / "q.gguf", "f16").fallbacks == 0


@pytest.mark.parametrize("quant", ["q8_0", "q4_0", "q5_1", "f16", "bf16"])
def test_the_bytes_are_those_of_the_gguf_package(quant: str, wide_gguf: Path, tmp_path: Path) -> None:
    """A second implementation, in NumPy."""
    quantise(wide_gguf, tmp_path / "q.gguf", quant)
    name = "blk.1.ffn_up.weight"
    wanted = quants.quantize(tensors(wide_gguf)[name], GGMLQuantizationType[quant.upper()])
    np.testing.assert_array_equal(tensors(tmp_path / "q.gguf")[name].view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize("quant", NAMES)
def test_every_quantisation_can_be_written_and_is_smaller_than_said(
    quant: str, wide_gguf: Path, importance: dict[str, np.ndarray], tmp_path: Path
) -> None:
    file = quantise(wide_gguf, tmp_path / "q.gguf", quant, importance=importance if wants_importance(quant) else None)
    size = sum(int(t.n_bytes) for t in GGUFReader(file.path).tensors)
    assert size <= most_bytes(widths(wide_gguf), quant) <= 4 * size


def test_fewer_bits_lose_more(wide_gguf: Path, tmp_path: Path) -> None:
    tokens = random_tokens(768)
    exact = of_gguf(wide_gguf, tokens)
    names = ("f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
    files = [quantise(wide_gguf, tmp_path / f"{quant}.gguf", quant).path for quant in names]
    lost = [mean_kl(exact, of_gguf(path, tokens)) for path in files]
    assert lost[0] < 1e-9
    assert lost[1] < 1e-4
    assert lost == sorted(lost)
    assert lost[-1] > 0.05


# --- what goes wrong ---


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond this: to the one that writes it, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(wide_gguf: Path, tmp_path: Path) -> None:
    with small_files(200_000), pytest.raises(ExportError, match="Cannot write") as caught:
        quantise(wide_gguf, tmp_path / "q.gguf", "q8_0")
    assert "free space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_seen_before(wide_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ExportError, match="GB are free"):
        quantise(wide_gguf, tmp_path / "q.gguf", "q8_0")


def test_a_folder_that_cannot_be_there(wide_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="Cannot write"):
        quantise(wide_gguf, tmp_path / "file" / "q.gguf", "q8_0")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_a_source_that_is_cut_short(share: float, wide_gguf: Path, tmp_path: Path) -> None:
    whole = wide_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ExportError, match="no whole GGUF file"):
        quantise(cut, tmp_path / "q.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == [cut]


def test_a_source_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("not a model " * 100)
    with pytest.raises(ExportError, match="no whole GGUF file"):
        quantise(tmp_path / "x.gguf", tmp_path / "q.gguf", "q8_0")


def test_a_quantised_source_is_refused(wide_gguf: Path, tmp_path: Path) -> None:
    quantise(wide_gguf, tmp_path / "q8.gguf", "q8_0")
    with pytest.raises(ExportError, match="quantised already"):
        quantise(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "q4_0")
    assert [p.name for p in tmp_path.iterdir()] == ["q8.gguf"]


def test_a_quantisation_that_needs_an_importance_matrix(wide_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs an importance matrix"):
        quantise(wide_gguf, tmp_path / "q.gguf", "iq2_xxs")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_float16_cannot_hold(wide_gguf: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.gguf"
    shutil.copy(wide_gguf, huge)
    tensor = next(t for t in GGUFReader(huge, "r+").tensors if t.name == "blk.0.attn_q.weight")
    tensor.data[3, 5] = 1e6
    with pytest.raises(ExportError, match="cannot quantise"):
        quantise(huge, tmp_path / "q.gguf", "f16")
    assert list(tmp_path.iterdir()) == [huge]


def test_an_older_file_stays_when_the_new_one_fails(wide_gguf: Path, tmp_path: Path) -> None:
    quantise(wide_gguf, tmp_path / "q.gguf", "q4_0")
    before = (tmp_path / "q.gguf").read_bytes()
    with pytest.raises(ExportError):
        quantise(wide_gguf, tmp_path / "q.gguf", "iq1_s")
    assert (tmp_path / "q.gguf").read_bytes() == before
