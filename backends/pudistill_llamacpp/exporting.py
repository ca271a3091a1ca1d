"""The two formats of this backend: `gguf`, the merged weights in one quantisation, and `gguf-adapter`, LoRA alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import cast

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.exporter import ExportRequest, WrittenExport
from pudistill_cli.models.checkpoint_files import count_parameters, read_json, weight_files
from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Adapter
from pudistill_llamacpp.convert import feasibility, upstream_converter
from pudistill_llamacpp.convert.file_contents import OutputTensor, contents_of
from pudistill_llamacpp.convert.writer import GgufDtype, write_gguf
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.gguf_student.merging import merged_file, write_merged
from pudistill_llamacpp.gguf_student.own_template import replace_chat_template
from pudistill_llamacpp.gguf_student.read import read_model
from pudistill_llamacpp.imatrix import importance_matrix
from pudistill_llamacpp.lora_gguf import config_of, write_lora, write_lora_gguf
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.quantisations import Width, most_bytes, quant_problem, wants_importance
from pudistill_llamacpp.quantise import Quantised, quantise, read_types
from pudistill_llamacpp.runtimes.beside import Prompting, RuntimeFiles, stop_texts, write_runtime_files
from pudistill_llamacpp.student_file import student_file
from pudistill_llamacpp.verify import Expected, bos_notices, check_text, expected_of

ADAPTER = "gguf-adapter"
KL_LIMIT = 1e-4
"""Mean next-token KL in nats of f32 and f16, which llama.cpp's own arithmetic stays far below (6e-6).

Not on a quantised student, where it rounds activations to 8 bits: see `open_base`.
"""
_DIRECT = ("f32", "f16", "bf16", "q8_0")
"""Written from the float32 sum at once, without a float32 file in between."""
_BASE = "f16"
"""How the student is held that an adapter goes on top of."""
_EXACT = {"kv": "f32", "flash": "off"}
"""A float32 cache and plain attention: what differs then is the file."""
_ADAPTER_BYTES = 1 << 28
_WITHOUT_BOS = (
    "The file says add_bos_token: false: the chat template writes no BOS, so the student was trained without, and "
    "llama.cpp and Ollama would put one before every conversation otherwise. Bare text gets none either."
)


# --- before ---


def export_problem(student: Path, format: str, variant: str, converter: Path | None) -> str | None:
    """Why this student cannot be written so, in one line with what to do."""
    if format != ADAPTER and (problem := quant_problem(variant)) is not None:
        return problem
    if student.is_file():  # it is one of those that can be written, or it would be no student
        return None
    problem = feasibility.problem(student)
    if problem is None:
        return feasibility.overflow(student, _BASE if format == ADAPTER else variant)
    if format == ADAPTER or converter is None:
        return f"{problem} For other architectures set export.llama_cpp to a checkout of llama.cpp (format gguf)."
    return upstream_converter.problem(converter)


def export_bytes(student: Path, format: str, variant: str) -> int:
    """Most bytes on disk at once: for a quantisation, the float32 file that it is made from as well."""
    if format == ADAPTER:
        return _ADAPTER_BYTES
    if student.is_file():
        return _bytes_of_merged(student, variant)
    if variant in _DIRECT and feasibility.problem(student) is None:
        return feasibility.bytes_needed(student, cast("GgufDtype", variant))
    if feasibility.problem(student) is not None:  # upstream's converter will write it
        return 8 * count_parameters(weight_files(student))
    contents = contents_of(student, merged_tensors(student), "f32")
    return feasibility.bytes_needed(student, "f32") + most_bytes(_widths(contents.tensors), variant)


def _bytes_of_merged(student: Path, variant: str) -> int:
    if variant in _DIRECT:
        return merged_file(student, variant).nbytes
    whole = merged_file(student, "f32")
    return whole.nbytes + most_bytes(_widths(whole.tensors), variant)


def _widths(tensors: Sequence[OutputTensor]) -> list[Width]:
    return [Width(t.name, t.shape[-1], prod(t.shape)) for t in tensors]


# --- writing ---


def write_export(request: ExportRequest) -> WrittenExport:
    """Write the GGUF file, and beside it what local runtimes need.

    Raises:
        ExportError: it cannot be converted, quantised or written.
    """
    if request.format == ADAPTER:
        return _write_adapter(request)
    file = request.out / f"{request.name}-{request.variant}.gguf"
    content = _write_quantised(request, file)
    runtimes = _beside(request, file, file.name, None)
    written = _written(file, content.report(), runtimes, KL_LIMIT if request.variant in ("f32", "f16") else None)
    notices = [*written.notices, *_own_grid(request), *([_WITHOUT_BOS] if _drops_bos(request) else [])]
    return replace(written, notices=tuple(notices))


def _own_grid(request: ExportRequest) -> list[str]:
    """What it means that a GGUF student's weights are stored in the type that they came in."""
    if not request.student.is_file():
        return []
    types = Counter(t.type_name for t in read_header(request.student).tensors.values() if len(t.shape) > 1)
    ((own, _),) = types.most_common(1)
    if own == "F32" or not request.variant.upper().startswith(own):
        return []
    return [
        f"The student came in {own}, and this file puts its weights back onto that grid, where small changes are "
        "rounded away; what is lost by it was measured."
    ]


def _write_quantised(request: ExportRequest, file: Path) -> Quantised:
    if request.variant in _DIRECT:
        _convert(request, file, cast("GgufDtype", request.variant))
        return read_types(file, request.variant)
    whole = request.out / ".f32.gguf"
    try:
        _convert(request, whole, "f32")
        threads = cpu.cores()
        needed = request.calibration if wants_importance(request.variant) else ()
        importance = importance_matrix(whole, needed, threads=threads) if needed else None
        return quantise(whole, file, request.variant, threads=threads, importance=importance)
    finally:
        with suppress(FileNotFoundError):
            whole.unlink()


def _convert(request: ExportRequest, file: Path, dtype: GgufDtype) -> None:
    template = _amended_template(request)
    if request.student.is_file():
        write_merged(request.student, request.adapter, file, dtype)
        if template is not None:
            replace_chat_template(file, template)
    elif _by_upstream(request):
        assert request.converter is not None
        upstream_converter.convert_with_upstream(
            request.converter, request.checkpoint, file, dtype=dtype, adapter=request.adapter, chat_template=template
        )
    else:
        adds_bos = False if _drops_bos(request) else None
        write_gguf(
            request.checkpoint,
            file,
            dtype=dtype,
            adapter=request.adapter,
            name=request.name,
            adds_bos=adds_bos,
            chat_template=template,
        )


def _by_upstream(request: ExportRequest) -> bool:
    return request.converter is not None and feasibility.problem(request.checkpoint) is not None


def _drops_bos(request: ExportRequest) -> bool:
    """Whether our own writer tells runtimes to add no BOS, since the run's conversations had none.

    Runtimes render a conversation and put before it what the file says. Upstream's converter copies the tokenizer's
    setting, which is about bare text; a GGUF student's metadata is kept.
    """
    ours = request.format != ADAPTER and not request.student.is_file() and not _by_upstream(request)
    return ours and request.generation.format == "chat" and _expected(request).unseen_bos


def _write_adapter(request: ExportRequest) -> WrittenExport:
    file = request.out / f"{request.name}-lora.gguf"
    if request.student.is_file():
        model = Model.open(request.student, vocab_only=True)
        try:
            architecture, config = config_of(model.metadata)
        finally:
            model.close()
        write_lora(request.adapter, architecture, config, file, request.name)
    else:
        write_lora_gguf(request.adapter, read_json(request.checkpoint / "config.json"), file, request.name)
    base = student_file(request.student, _BASE)
    runtimes = _beside(request, base, str(base.resolve()), file.name)
    return _written(file, {"bytes": file.stat().st_size}, runtimes, KL_LIMIT)


def _beside(request: ExportRequest, file: Path, weights: str, adapter: str | None) -> RuntimeFiles:
    """Modelfile, LM Studio's folder and the lines to type; `file` has the vocabulary."""
    tokenizer = _tokenizer(request)
    model = Model.open(file, vocab_only=True)
    try:
        adds_bos = model.vocabulary.adds_bos
    finally:
        model.close()
    prompting = Prompting(
        template=tokenizer.chat_template if request.generation.format == "chat" else None,
        stops=stop_texts([tokenizer.codec.token_of(i) for i in request.stop_tokens]),
        adds_bos=adds_bos,
        unseen_bos=adds_bos and request.generation.format == "chat" and _expected(request).unseen_bos,
        sampling=request.generation.sampling,
        context=request.context,
        variables=request.generation.variables,
    )
    return write_runtime_files(request.out, weights, request.name, prompting, adapter)


def _written(file: Path, report: Mapping[str, object], runtimes: RuntimeFiles, kl_limit: float | None) -> WrittenExport:
    report = {**report, "modelfile_template": runtimes.family}
    return WrittenExport(file, report, tuple(runtimes.notices), runtimes.next_steps, kl_limit)


def _tokenizer(request: ExportRequest) -> StudentTokenizer:
    """As the run had it, with the run's date."""
    student, format = request.student, request.generation.format
    if student.is_file():
        tokenizer = StudentTokenizer.of_model_file(read_model(student), format).at(request.now)
    else:
        tokenizer = StudentTokenizer.load(student, format=format).at(request.now)
    return tokenizer.answering(request.generation.variables) if format == "chat" else tokenizer


def _amended_template(request: ExportRequest) -> str | None:
    """The chat template that the run used, where it is more than the student's own."""
    template = _tokenizer(request).chat_template
    return template.source if template.amended else None


# --- checking ---


def open_export(
    request: ExportRequest, written: WrittenExport, spec: ModelSpec
) -> tuple[LlamaCppEngine, Adapter | None]:
    """The file in llama.cpp, or the student with the adapter."""
    if request.format != ADAPTER:
        return LlamaCppEngine(replace(spec, folder=written.model, options=_EXACT)), None
    engine = open_base(request, spec)
    return engine, engine.load_adapter(written.model)


def open_base(request: ExportRequest, spec: ModelSpec) -> LlamaCppEngine:
    """The student as it came, likewise: a GGUF file as it is, since that is what the adapter is used with."""
    quant = {} if request.student.is_file() else {"quant": _BASE}
    return LlamaCppEngine(replace(spec, folder=request.student, options=quant | _EXACT))


def check_export(request: ExportRequest, written: WrittenExport, texts: Sequence[str]) -> tuple[str, ...]:
    """Ids, template and end of turn, with notices; an adapter has none of them, but its base may add a BOS.

    Raises:
        ExportError: llama.cpp reads or ends something differently.
    """
    expected = replace(_expected(request), stop_tokens=request.stop_tokens, adds_bos=not _drops_bos(request))
    if request.format != ADAPTER:
        return check_text(written.model, expected, texts)
    chat = request.generation.format == "chat"
    return bos_notices(student_file(request.student, _BASE), expected) if chat else ()


def _expected(request: ExportRequest) -> Expected:
    return expected_of(_tokenizer(request), request.generation.variables)
