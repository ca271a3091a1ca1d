"""The format against the safetensors library, and its conversions against torch, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.safetensors_io import TensorSpec, from_float32, stored_tensors, to_float32, write_tensors

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

EVERY_16_BITS = np.arange(1 << 16, dtype=np.uint16)


def _float32_patterns() -> np.ndarray:
    """Random bits, and around every value of 16 bits: itself, its neighbours, and the ties to either side."""
    around = (EVERY_16_BITS.astype(np.uint32) << 16)[:, None] + np.array(
        [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32
    )
    random = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    half = EVERY_16_BITS.view(np.float16).astype(np.float32).view(np.uint32)
    ties = half[:, None] + np.array([0, 0x0FFF, 0x1000, 0x1001], np.uint32)
    return np.concatenate([around.ravel(), random, ties.ravel()]).view(np.float32)


def test_bfloat16_is_read_exactly():
    expected = torch.from_numpy(EVERY_16_BITS.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert to_float32(EVERY_16_BITS, "BF16").tobytes() == expected.tobytes()


@pytest.mark.parametrize(("dtype", "name"), [("BF16", "bfloat16"), ("F16", "float16")])
def test_rounding_is_to_nearest_ties_to_even(dtype: str, name: str):
    values = _float32_patterns()
    expected = torch.from_numpy(values).to(getattr(torch, name)).view(torch.int16).numpy().view(np.uint16)
    stored = from_float32(values, dtype).view(np.uint16)
    number = ~np.isnan(values)
    assert np.array_equal(stored[number], expected[number])
    assert np.isnan(to_float32(from_float32(values[~number], dtype), dtype)).all()  # whichever NaN


def test_what_the_library_wrote_is_read(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "half": torch.randn(5, 3, generator=generator).to(torch.bfloat16),
        "single": torch.randn(2, 3, 4, generator=generator),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "flags": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
    }
    safetensors_torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = {t.spec.name: t for t in stored_tensors(tmp_path / "x.safetensors")}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        spec = read[name].spec
        assert spec.shape == tuple(tensor.shape)
        values = to_float32(read[name].read(), spec.dtype).reshape(spec.shape)
        assert np.array_equal(values, tensor.float().numpy()), name
    assert read["single"].read(7, 11).tolist() == tensors["single"].flatten()[7:11].tolist()


def test_what_is_written_the_library_reads(tmp_path: Path):
    data = {
        "flags": np.array([True, False, True]),
        "half": from_float32(np.linspace(-2, 2, 15, dtype=np.float32), "BF16"),
        "single": np.arange(6, dtype=np.float32),
        "scalar": np.array([7], dtype=np.int64),
        "none": np.zeros(0, dtype=np.float32),
        "ünï": np.ones(1, dtype=np.float16),
    }
    specs = [
        TensorSpec("flags", "BOOL", (3,)),
        TensorSpec("half", "BF16", (5, 3)),
        TensorSpec("single", "F32", (2, 3)),
        TensorSpec("scalar", "I64", ()),
        TensorSpec("none", "F32", (0, 4)),
        TensorSpec("ünï", "F16", (1, 1)),
    ]
    path = tmp_path / "x.safetensors"
    write_tensors(path, specs, lambda name: (data[name][i : i + 2] for i in range(0, len(data[name]), 2)))
    loaded = safetensors_torch.load_file(path)
    assert {name: tuple(t.shape) for name, t in loaded.items()} == {s.name: s.shape for s in specs}
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["half"].flatten().tolist() == to_float32(data["half"], "BF16").tolist()
    assert loaded["flags"].tolist() == [True, False, True]
    assert loaded["scalar"].item() == 7
    assert loaded["single"].tolist() == [[0, 1, 2], [3, 4, 5]]
    header = path.read_bytes()[8:].split(b"}}")[0] + b"}}"
    assert json.loads(header)["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("length", range(1, 9))
def test_every_tensor_is_aligned_so_that_the_file_can_be_mapped(tmp_path: Path, length: int):
    specs = [TensorSpec("b", "BOOL", (3,)), TensorSpec("h", "F16", (1,)), TensorSpec("w" * length, "F32", (1,))]
    data = {"b": np.zeros(3, bool), "h": np.zeros(1, np.float16), "w" * length: np.zeros(1, np.float32)}
    write_tensors(tmp_path / "x.safetensors", specs, lambda name: [data[name]])
    for tensor in stored_tensors(tmp_path / "x.safetensors"):
        assert tensor.offset % tensor.read().itemsize == 0, tensor


def _file(path: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "of type F8_E4M3, which is not read"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [-8, 8]}, "no two places in the file"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, "cut off"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, entry: object, message: str):
    path = _file(tmp_path / "x.safetensors", {"w": entry}, bytes(8))
    with pytest.raises(DataError, match=message):
        stored_tensors(path)


def test_a_file_that_changes_after_its_header_was_read(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, [TensorSpec("w", "F32", (4,))], lambda _: [np.zeros(4, np.float32)])
    (tensor,) = stored_tensors(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="cut short since its header was read"):
        tensor.read()
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        tensor.read()
