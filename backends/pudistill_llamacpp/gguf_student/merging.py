"""A trained GGUF student written back: its own file with the adapter added, in a type that keeps what was learned.

Each weight is dequantised and added to in float32, and that sum is stored. Going back onto the grid that the weights
came from would round a small change away: every weight lies on a point of it. The metadata are the file's own bytes,
but for what says how it is stored; so are the factors of its RoPE and what else is float32 anyway.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pudistill_cli.errors import ExportError
from pudistill_cli.models.peft_adapter import LowRank, read_adapter
from pudistill_llamacpp.convert.file_contents import OutputTensor, stored_type
from pudistill_llamacpp.convert.general import stored_as
from pudistill_llamacpp.convert.writer import GgufDtype, Written, stored
from pudistill_llamacpp.gguf_file.header import Header, read_header
from pudistill_llamacpp.gguf_student.config import architecture_of, config_of
from pudistill_llamacpp.gguf_student.tensors import Weights, weights_of
from pudistill_llamacpp.whole_file import whole_file

_VERSION = 3
_DESCRIBED = ("general.file_type", "general.quantization_version", "quantize.imatrix.")
"""Keys, or how they begin, that say how the student's own file was stored."""


@dataclass(frozen=True, slots=True)
class MergedFile:
    """What a merged file will hold, known before a weight is read."""

    header: Header
    tensors: list[OutputTensor]
    """In the order of the student's file; `source` is transformers' name, or the file's where that has none."""

    @property
    def nbytes(self) -> int:
        """Of the whole file, a little rounded up."""
        alignment = self.header.alignment
        return self.header.tensors_start + sum(t.nbytes + alignment for t in self.tensors) + (1 << 16)


def merged_file(student: Path, dtype: str) -> MergedFile:
    """What `write_merged` writes.

    Raises:
        DataError: the student's file cannot be read.
    """
    header = read_header(student)
    weights = _weights(header)
    sources = {source.tensor.name: name for name, source in weights.sources.items()}
    tensors = [
        OutputTensor(name, sources.get(name, name), t.shape, stored_type(name, t.shape, dtype.upper()))
        for name, t in header.tensors.items()
    ]
    return MergedFile(header, tensors)


def write_merged(student: Path, adapter: Path, out: Path, dtype: GgufDtype) -> Written:
    """Write the GGUF file `student` with a PEFT adapter merged to the file `out`, which appears whole or not at all.

    Matrices are stored in `dtype`, straight from the float32 sum; vectors and norms in float32, and in q8_0 a matrix
    whose rows are no multiple of 32 in float16. In memory is one tensor at a time.

    Raises:
        ExportError: the adapter does not fit, a weight is too large for float16, or the file cannot be written.
        DataError: the student's file cannot be read.
    """
    file = merged_file(student, dtype)
    weights = _weights(file.header)
    additions = _placed(weights, read_adapter(adapter), adapter)
    with whole_file(out, file.nbytes, advice="export gguf-adapter") as temporary, temporary.open("wb") as stream:
        _write_header(stream, file, dtype)
        for tensor in file.tensors:
            stream.write(_bytes(file.header, weights, additions, tensor))
            _pad(stream, file.header.alignment)
    return Written(out, out.stat().st_size, Counter(t.type for t in file.tensors))


def _weights(header: Header) -> Weights:
    return weights_of(header, architecture_of(header), config_of(header))


def _placed(weights: Weights, adapter: Mapping[str, LowRank], folder: Path) -> dict[str, LowRank]:
    """The additions by transformers' name of their weight; every one must have its place."""
    placed: dict[str, LowRank] = {}
    for module, addition in adapter.items():
        name = f"{module}.weight"
        if name not in weights.sources or weights.sources[name].tensor.shape != addition.shape:
            raise ExportError(
                f"The adapter {folder} changes {module} by a matrix of shape {addition.shape}, which does not fit "
                f"{weights.path.name}.",
                "Merge an adapter only into the student that it was trained on.",
            )
        placed[name] = addition
    return placed


# --- bytes ---


def _write_header(stream: BinaryIO, file: MergedFile, dtype: GgufDtype) -> None:
    """Counts, metadata, and each tensor's name, shape, type and place."""
    from gguf import GGMLQuantizationType

    kept = [raw for key, raw in file.header.entries.items() if not key.startswith(_DESCRIBED)]
    described = [_uint32(entry.key, cast("int", entry.value)) for entry in stored_as(dtype)]
    stream.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(file.tensors), len(kept) + len(described)))
    stream.write(b"".join([*kept, *described]))
    at = 0
    for tensor in file.tensors:
        kind = GGMLQuantizationType[tensor.type].value
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        stream.write(_string(tensor.name) + shape + struct.pack("<IQ", kind, at))
        at += tensor.nbytes + -tensor.nbytes % file.header.alignment
    _pad(stream, file.header.alignment)


def _bytes(header: Header, weights: Weights, additions: Mapping[str, LowRank], tensor: OutputTensor) -> bytes:
    """A tensor as it is stored."""
    if tensor.source not in weights.sources:  # factors of its RoPE
        return header.tensors[tensor.name].read(header.path).tobytes()
    values = weights.values(tensor.source)
    if (addition := additions.get(tensor.source)) is not None:
        whole = addition.rows(0, tensor.shape[0])
        values = values + weights.architecture.converted(tensor.source, whole, weights.hyper)
    bits = stored(tensor, values)
    assert bits.nbytes == tensor.nbytes, f"{tensor.name}: {bits.nbytes} bytes of {tensor.nbytes}"
    return bits.tobytes()


def _uint32(key: str, value: int) -> bytes:
    return _string(key) + struct.pack("<II", 4, value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pad(stream: BinaryIO, alignment: int) -> None:
    stream.write(bytes(-stream.tell() % alignment))
