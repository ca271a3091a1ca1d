"""Another chat template in a finished GGUF file, whose other bytes stay as they are."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from pudistill_llamacpp.convert.vocabulary import CHAT_TEMPLATE
from pudistill_llamacpp.whole_file import whole_file


def replace_chat_template(file: Path, source: str) -> None:
    """Write `file` anew with this chat template in place of its own; one that has none is left as it is.

    Raises:
        ExportError: there is no room for it, or it cannot be written.
    """
    from gguf import GGUFReader, ReaderField

    def end_of(field: ReaderField) -> int:
        return field.offset + sum(part.nbytes for part in field.parts)

    reader = GGUFReader(file)
    field = reader.fields.get(CHAT_TEMPLATE)
    if field is None:
        return
    infos_end = max(end_of(tensor.field) for tensor in reader.tensors)
    raw = source.encode()
    key = CHAT_TEMPLATE.encode()
    # The key, 8 for the type of a string, the string; lengths come before what they measure.
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(raw)) + raw
    size = file.stat().st_size + len(entry)
    with whole_file(file, size) as temporary, temporary.open("wb") as out, file.open("rb") as held:
        out.write(held.read(field.offset) + entry)
        held.seek(end_of(field))
        out.write(held.read(infos_end - end_of(field)))
        out.write(bytes(-out.tell() % reader.alignment))
        held.seek(reader.data_offset)
        shutil.copyfileobj(held, out, 1 << 22)
