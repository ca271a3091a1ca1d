"""An export is the trained model, or it is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.export_formats import CORE, Target, keeps_more
from pudistill_cli.config.export import ExportSettings, formats_of
from pudistill_cli.errors import OutOfMemory
from pudistill_cli.models import merged_checkpoint
from pudistill_cli.stages import exporting
from pudistill_cli.stages.verification import Comparison
from tests.tiny import STUDENT, Ended, Tiny

TEXT = "add call to my calendar today thanks"


def logprobs(model: Any) -> np.ndarray:
    """(T, V) next-token log-probs of one chat, by transformers alone."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT, local_files_only=True)
    messages = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": '{"do":"book"}'}]
    ids = tokenizer.apply_chat_template(messages)["input_ids"]
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


def adapted(adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(plain(STUDENT), str(adapter)).eval()


def chosen(tiny: Tiny) -> Path:
    name = json.loads((tiny.run / "results.json").read_text())["chosen"]
    return tiny.run / "adapters" / name


def test_transformers_loads_the_merged_weights_as_the_trained_model(finished: Tiny) -> None:
    trained = logprobs(adapted(chosen(finished)))
    np.testing.assert_allclose(logprobs(plain(finished.run / "export" / "hf")), trained, atol=1e-4)
    assert np.abs(logprobs(plain(STUDENT)) - trained).max() > 1e-2  # training changed something


def test_peft_loads_the_adapter_as_the_trained_model(finished: Tiny) -> None:
    trained = logprobs(adapted(chosen(finished)))
    np.testing.assert_array_equal(logprobs(adapted(finished.run / "export" / "adapter")), trained)


def test_the_merged_folder_is_a_student_of_its_own(finished: Tiny, tmp_path: Path, call: Callable[..., Ended]) -> None:
    """Without any file of the original: moved elsewhere, it can be trained on."""
    student = tmp_path / "moved"
    shutil.copytree(finished.run / "export" / "hf", student)
    tiny = Tiny.make(tmp_path / "next", student={"model": str(student)}, name="next")
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err


def test_the_card_names_the_adapter_and_what_was_measured(finished: Tiny) -> None:
    for format in ("hf", "adapter"):
        card = json.loads((finished.run / "export" / format / "pudistill.json").read_text())
        assert card["adapter"] == chosen(finished).name
        assert card["student"] == "student"
        assert abs(card["verification"]["kl"]) < 1e-6
        assert str(finished.folder) not in json.dumps(card)


@pytest.mark.parametrize("adapter", ["sft", "round-1", "round-2"])
def test_any_adapter_can_be_exported(adapter: str, copied: Tiny, call: Callable[..., Ended]) -> None:
    ended = call("export", "tiny", "--runs", str(copied.runs), "--adapter", adapter)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(copied.run / "export" / "hf")
    trained = logprobs(adapted(copied.run / "adapters" / adapter))
    np.testing.assert_allclose(logprobs(plain(copied.run / "export" / "hf")), trained, atol=1e-4)


def test_a_bfloat16_export_says_what_it_lost(copied: Tiny, call: Callable[..., Ended]) -> None:
    ended = call("export", "tiny", "--runs", str(copied.runs), "--adapter", "round-2", "--dtype", "bfloat16", "--json")
    assert ended.code == 0, ended.err
    (event,) = [e for e in ended.events if e["event"] == "exported"]
    assert event["kl"] > 1e-7  # bfloat16 has 8 bits
    card = json.loads((copied.run / "export" / "hf" / "pudistill.json").read_text())
    verification = card["verification"]
    assert verification["kl"] == event["kl"]
    assert event["ratio"] == pytest.approx(verification["kl"] / verification["kl_to_base"])


def test_a_run_in_bfloat16_is_verified_in_float32(tmp_path: Path, call: Callable[..., Ended]) -> None:
    """Two bfloat16 computations of one model differ by more than 1e-4; what is compared are the weights."""
    tiny = Tiny.make(tmp_path, student={"dtype": "bfloat16"}, prefer={"rounds": 0})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    for format in ("hf", "adapter"):
        verification = json.loads((tiny.run / "export" / format / "pudistill.json").read_text())["verification"]
        assert abs(verification["kl"]) < 1e-6
    trained = logprobs(adapted(tiny.run / "adapters" / "sft"))
    np.testing.assert_allclose(logprobs(plain(tiny.run / "export" / "hf")), trained, atol=1e-4)


@pytest.mark.parametrize(("lost", "words"), [(0.1, "10%"), (0.34, "34%"), (2.0, "100%")])
def test_a_dtype_that_was_named_is_written_and_what_it_loses_is_said(
    lost: float, words: str, copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    compare = exporting.compare

    def measured(*arguments: Any) -> Comparison:
        return replace(compare(*arguments), kl=lost, kl_to_base=1.0)

    monkeypatch.setattr(exporting, "compare", measured)
    ended = call("export", "tiny", "--runs", str(copied.runs), "--dtype", "bfloat16")
    assert ended.code == 0, ended.err
    assert f"This hf export loses {words} of what training changed" in ended.flat
    assert "Use --dtype float32 or --format adapter." in ended.flat


def scaled(folder: Path) -> None:
    """One matrix a little larger."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name] * 1.05}, folder / "model.safetensors", {"format": "pt"})


def skipped(folder: Path) -> None:
    """One module without its part of the adapter."""
    tensors, original = load_file(folder / "model.safetensors"), load_file(STUDENT / "model.safetensors")
    name = "model.layers.0.self_attn.v_proj.weight"
    assert np.abs(tensors[name] - original[name]).max() > 0
    save_file(tensors | {name: original[name]}, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = np.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")


def another_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-300]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("damage", [scaled, skipped, not_finite, another_template, another_tokenizer])
def test_a_damaged_export_is_noticed_and_nothing_is_left_of_it(
    damage: Callable[[Path], None], copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    merge = merged_checkpoint.merge_lora

    def damaging(checkpoint: Path, adapter: Path, out: Path, **settings: Any) -> merged_checkpoint.MergeReport:
        report = merge(checkpoint, adapter, out, **settings)
        damage(out)
        return report

    shutil.rmtree(copied.run / "export" / "hf")
    with monkeypatch.context() as patch:
        patch.setattr(merged_checkpoint, "merge_lora", damaging)
        ended = call("export", "tiny", "--runs", str(copied.runs), "--adapter", "round-2")
    assert ended.code == 8, ended.err
    assert "Traceback" not in ended.err
    assert [p.name for p in (copied.run / "export").iterdir()] == ["adapter"]
    assert call("export", "tiny", "--runs", str(copied.runs), "--adapter", "round-2").code == 0


def test_a_run_whose_export_fails_is_not_done_and_one_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0}, export={"formats": ["hf", "adapter"]})
    merge = merged_checkpoint.merge_lora
    with monkeypatch.context() as patch:

        def damaging(checkpoint: Path, adapter: Path, out: Path, **settings: Any) -> None:
            merge(checkpoint, adapter, out, **settings)
            scaled(out)

        patch.setattr(merged_checkpoint, "merge_lora", damaging)
        ended = call(*tiny.arguments("--json"))
    assert ended.code == 8
    assert [e["event"] for e in ended.events][-1] == "error"
    assert "done" not in {e["event"] for e in ended.events}
    assert "The hf export is not the trained model" in ended.events[-1]["message"]
    assert f"Written and verified: {tiny.run / 'export' / 'adapter'}." in ended.events[-1]["message"]
    assert [p.name for p in (tiny.run / "export").iterdir()] == ["adapter"]
    page = (tiny.run / "report.html").read_text(encoding="utf-8")
    assert page.index("Exports, loaded back and compared") < page.index('<th scope="row">adapter</th>')
    assert '<th scope="row">hf</th>' not in page
    assert tiny.value("SELECT count(*) FROM stages WHERE name = 'export/hf' AND finished IS NOT NULL") == 0
    assert tiny.value("SELECT count(*) FROM stages WHERE name = 'export/adapter' AND finished IS NOT NULL") == 1
    adapter = tiny.bytes_of("export/adapter/*")
    again = call(*tiny.arguments())
    assert again.code == 0, again.err
    assert tiny.bytes_of("export/adapter/*") == adapter
    assert (tiny.run / "export" / "hf" / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [RuntimeError("of a library"), OutOfMemory("too little memory")])
def test_an_error_of_any_kind_stops_no_other_export(
    error: Exception, copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    """What is no error of the user's is raised in the end, as a mistake of ours."""

    def fail(*arguments: Any, **settings: Any) -> None:
        raise error

    shutil.rmtree(copied.run / "export")
    with copied.changed_ledger() as db:
        db.execute("DELETE FROM stages WHERE name LIKE 'export/%'")
    monkeypatch.setattr(merged_checkpoint, "merge_lora", fail)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="of a library"):
            call(*copied.arguments())
    else:
        ended = call(*copied.arguments())
        assert ended.code == 8
        assert "The hf export failed; the others go on." in ended.flat
        assert "too little memory" in ended.flat
    assert [p.name for p in (copied.run / "export").iterdir()] == ["adapter"]


def test_the_report_is_there_whatever_becomes_of_the_exports(
    copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    def fail(*arguments: Any) -> None:
        raise OutOfMemory("too little memory")

    with copied.changed_ledger() as db:
        db.execute("DELETE FROM stages WHERE name LIKE 'export/%'")
    (copied.run / "report.html").unlink()
    monkeypatch.setattr(exporting, "trained_distributions", fail)
    assert call(*copied.arguments()).code == 6
    assert (copied.run / "report.html").is_file()


def test_a_report_leaves_out_what_an_older_version_compared_with_sft(copied: Tiny, call: Callable[..., Ended]) -> None:
    with copied.changed_ledger() as db:
        db.execute("UPDATE stages SET detail = replace(detail, 'kl_to_base', 'kl_to_sft') WHERE name = 'export/hf'")
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert ended.code == 0, ended.err
    page = (copied.run / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">adapter</th>' in page
    assert '<th scope="row">hf</th>' not in page


def test_the_report_says_what_a_runtime_s_arithmetic_makes(copied: Tiny, call: Callable[..., Ended]) -> None:
    with copied.changed_ledger() as db:
        detail = json.loads(db.execute("SELECT detail FROM stages WHERE name = 'export/adapter'").fetchone()[0])
        detail |= {"kl": 2.3e-3, "kl_of_base": 1.2e-3}
        db.execute("UPDATE stages SET detail = ? WHERE name = 'export/adapter'", (json.dumps(detail),))
    assert call("report", "tiny", "--runs", str(copied.runs)).code == 0
    page = (copied.run / "report.html").read_text(encoding="utf-8")
    assert "nothing <small>(its runtime's arithmetic differs by 1.2e-03 before training too)</small>" in page


# --- formats and their variants ---


def targets_of(auto: tuple[str, ...] = CORE, **settings: Any) -> list[Target]:
    return formats_of(ExportSettings.model_validate(settings), auto)


def names_of(auto: tuple[str, ...] = CORE, **settings: Any) -> list[str]:
    return [str(target) for target in targets_of(auto, **settings)]


GGUF = ("gguf", "gguf-adapter")


def test_a_student_leaves_as_it_came_unless_the_recipe_says_otherwise() -> None:
    assert names_of() == ["hf", "adapter"]
    assert names_of(GGUF) == ["gguf-q8_0", "gguf-adapter"]
    assert names_of(GGUF, formats=["gguf"], quants=["q4_k_m"]) == ["gguf-q4_k_m", "gguf-adapter"]
    assert names_of(GGUF, formats=["adapter"]) == ["adapter"]
    assert names_of((*GGUF, *CORE)) == ["gguf-q8_0", "gguf-adapter", "hf", "adapter"]
    assert names_of(formats=["gguf"]) == ["gguf-q8_0"]


def test_a_type_that_nobody_named_may_grow_and_one_that_is_named_may_not() -> None:
    (gguf, mlx) = targets_of(formats=["gguf", "mlx"])
    assert [str(t) for t in gguf.attempts] == ["gguf-q8_0", "gguf-f16", "gguf-f32"]
    assert [str(t) for t in mlx.attempts] == ["mlx-8bit", "mlx-bf16", "mlx-f32"]
    assert [bool(t.larger) for t in gguf.attempts] == [True, True, False]
    grouped = targets_of(formats=["mlx"], group_size=32)[0]
    assert [str(t) for t in grouped.attempts] == ["mlx-8bit-g32", "mlx-bf16", "mlx-f32"]
    for target in targets_of(formats=["gguf", "mlx", "hf"], quants="Q8_0", bits=8, dtype="bfloat16"):
        assert list(target.attempts) == [target]


def test_each_number_of_bits_is_a_folder_of_its_own() -> None:
    """A group size other than mlx-lm's own is in the name; weights that are not quantised have no groups."""
    assert names_of(formats=["mlx"]) == ["mlx-8bit"]
    assert names_of(formats="mlx", bits=4) == ["mlx-4bit"]
    assert names_of(formats=["mlx", "hf"], bits=[4, 6, 16, 32]) == ["mlx-4bit", "mlx-6bit", "mlx-bf16", "mlx-f32", "hf"]
    assert names_of(formats=["mlx"], bits=[4, 16], group_size=32) == ["mlx-4bit-g32", "mlx-bf16"]
    assert names_of(formats=["mlx"], bits=[4, 4]) == ["mlx-4bit"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 2}, "3, 4, 5, 6, 8, 16 or 32 bits, not 2"),
        ({"bits": [4, 7]}, "not 7"),
        ({"bits": []}, "at least 1"),
        ({"bits": ["auto", 4]}, "not auto"),
        ({"bits": "few"}, "auto"),
        ({"group_size": 16}, "32, 64 or 128 weights, not 16"),
    ],
)
def test_other_bits_and_groups_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ExportSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("format", "variant", "words"),
    [
        ("hf", "bfloat16", "Use --dtype float32 or --format adapter."),
        ("adapter", "", ""),
        ("gguf", "q4_0", "Use a larger --quant, or --format gguf-adapter."),
        ("gguf-adapter", "", ""),
        ("mlx", "4bit-g32", "Use --bits 8 or 16 or 32, or --format adapter."),
        ("mlx", "8bit", "Use --bits 16 or 32, or --format adapter."),
        ("mlx", "bf16", "Use --bits 32, or --format adapter."),
        ("mlx", "f32", "Use --format adapter."),
    ],
)
def test_what_to_type_for_more_names_the_formats_own_option(format: str, variant: str, words: str) -> None:
    assert keeps_more(Target(format, variant)) == words
