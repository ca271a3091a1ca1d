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

from pudistill_cli.backend_api.export_formats import Target, keeps_more
from pudistill_cli.config.export import ExportSettings, formats_of
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
    assert event["ratio"] == pytest.approx(verification["kl"] / verification["kl_to_sft"])


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


@pytest.mark.parametrize(("lost", "words"), [(0.3, "loses part of the training"), (2.0, "lost the training")])
def test_an_export_that_loses_the_training_warns(
    lost: float, words: str, copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    compare = exporting.compare

    def measured(*arguments: Any) -> Comparison:
        return replace(compare(*arguments), kl=lost, kl_to_sft=1.0)

    monkeypatch.setattr(exporting, "compare", measured)
    ended = call("export", "tiny", "--runs", str(copied.runs), "--dtype", "bfloat16")
    assert words in ended.flat


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


def test_a_run_whose_export_fails_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0}, export={"formats": ["hf"]})
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
    assert tiny.value("SELECT count(*) FROM stages WHERE name = 'export/hf' AND finished IS NOT NULL") == 0
    assert call(*tiny.arguments()).code == 0
    assert (tiny.run / "export" / "hf" / "model.safetensors").is_file()


# --- formats and their variants ---


def names_of(**settings: Any) -> list[str]:
    return [str(target) for target in formats_of(ExportSettings.model_validate(settings), gguf_student=False)]


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
        ({"group_size": 16}, "32, 64 or 128 weights, not 16"),
    ],
)
def test_other_bits_and_groups_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ExportSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("format", "variant", "words"),
    [
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
