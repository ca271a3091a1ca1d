"""Write a checkpoint, with an adapter merged in float32, as a GGUF file: tensor by tensor, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import NotTheTrainedModel
from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_cli.models.safetensors_io import from_float32
from pudistill_llamacpp.convert.file_contents import OutputTensor, contents_of
from pudistill_llamacpp.convert.general import general
from pudistill_llamacpp.convert.hyperparameters import Entry, Kind, boolean, string
from pudistill_llamacpp.convert.vocabulary import ADDS_BOS, CHAT_TEMPLATE, read_vocabulary
from pudistill_llamacpp.whole_file import whole_file

if TYPE_CHECKING:
    from gguf import GGUFWriter

GgufDtype: TypeAlias = Literal["f32", "f16", "bf16", "q8_0"]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished file."""

    path: Path
    nbytes: int
    types: Mapping[str, int]
    """Number of tensors by the type they are really stored in."""


def write_gguf(
    checkpoint: Path,
    out: Path,
    *,
    dtype: GgufDtype,
    adapter: Path | None = None,
    name: str | None = None,
    adds_bos: bool | None = None,
    chat_template: str | None = None,
) -> Written:
    """Write `checkpoint` to the file `out`; an older one there is replaced.

    Matrices are stored in `dtype`, straight from the float32 sum of weight and adapter; vectors and norms in float32,
    and in q8_0 a matrix whose rows are no multiple of 32 in float16. In memory is one tensor at a time.
    `name` is what runtimes show, the folder's name by default; it is changed where llama.cpp would misread it (naming).
    `adds_bos` is what the file has them do before a text, by default what the tokenizer does; `chat_template` takes
    the place of the checkpoint's own.

    Raises:
        ExportError: the architecture or tokenizer is not one that llama.cpp has, the adapter does not fit, a weight
            is too large for float16, or the file cannot be written.
        DataError: the checkpoint cannot be read.
    """
    contents = contents_of(checkpoint, merged_tensors(checkpoint, adapter), dtype, name)
    with whole_file(out, contents.nbytes) as temporary:
        entries = [*general(checkpoint, contents, dtype), *contents.entries]
        if adds_bos is not None:
            entries = [boolean(ADDS_BOS, adds_bos) if entry.key == ADDS_BOS else entry for entry in entries]
        if chat_template is not None:
            own = string(CHAT_TEMPLATE, chat_template)
            entries = [own if entry.key == CHAT_TEMPLATE else entry for entry in entries]
        data = (stored(tensor, contents.values(tensor)) for tensor in contents.tensors)
        write_file(temporary, contents.architecture.name, entries, contents.tensors, data)
    return Written(out, out.stat().st_size, Counter(t.type for t in contents.tensors))


def write_vocabulary(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint's tokenizer alone, for llama.cpp to load without weights.

    Raises:
        ExportError: llama.cpp has no tokenizer that gives the same ids, or the file cannot be written.
        DataError: the tokenizer cannot be read.
    """
    vocabulary = read_vocabulary(checkpoint, None, "vocabulary")
    with whole_file(out, 0) as temporary:
        write_file(temporary, "llama", [string("general.name", vocabulary.name), *vocabulary.entries()])


def write_file(
    path: Path,
    arch: str,
    entries: Sequence[Entry],
    tensors: Sequence[OutputTensor] = (),
    data: Iterable[NDArray[Any]] = (),
) -> None:
    """Write a file of these entries and tensors; `data` gives the bytes of each tensor when it is its turn."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, arch)
    try:
        for entry in entries:
            _add(writer, entry, arch)
        for t in tensors:
            writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.nbytes, GGMLQuantizationType[t.type])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for bits in data:
            writer.write_tensor_data(bits)
        writer.flush()
    finally:
        writer.close()


def _add(writer: GGUFWriter, entry: Entry, arch: str) -> None:
    from gguf import GGUFValueType

    kinds: Mapping[Kind, GGUFValueType] = {
        "uint32": GGUFValueType.UINT32,
        "float32": GGUFValueType.FLOAT32,
        "bool": GGUFValueType.BOOL,
        "string": GGUFValueType.STRING,
        "strings": GGUFValueType.STRING,
        "int32s": GGUFValueType.INT32,
        "float32s": GGUFValueType.FLOAT32,
    }
    key, kind = entry.key.format(arch=arch), kinds[entry.kind]
    if entry.kind.endswith("s"):
        writer.add_key_value(key, entry.value, GGUFValueType.ARRAY, kind)
    else:
        writer.add_key_value(key, entry.value, kind)


def stored(tensor: OutputTensor, values: NDArray[np.float32]) -> NDArray[Any]:
    """The bytes of a tensor in its type; NotTheTrainedModel where float16 cannot hold one of its values."""
    from gguf import GGMLQuantizationType, quants

    if tensor.type == "Q8_0":
        return quants.quantize(values, GGMLQuantizationType.Q8_0)
    bits = from_float32(values, tensor.type)
    if tensor.type == "F16" and (np.isinf(bits) & np.isfinite(values)).any():
        raise NotTheTrainedModel(
            f"A weight of {tensor.source} is beyond the largest number of float16.", "Use bf16 or f32 instead."
        )
    return bits
