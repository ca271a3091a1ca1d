"""Losses and gradients are trl's on the same batch, to 1e-4."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pudistill_cli.backend_api.contract import GroupBatch, TrainGroup
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_torch.gradients import group_gradient
from tests.backends.pudistill_torch.small import (
    VOCABULARY,
    gradients,
    open_learner,
    random_groups,
)
from tests.backends.random_batches import assert_near

os.environ.setdefault("WANDB_MODE", "disabled")
trl = pytest.importorskip("trl", reason="trl, the second implementation, is in the dev extra")


@pytest.fixture
def tokenizer() -> Any:
    """The trainers ask for one; their batches are built here, from token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")), pad_token="w0", eos_token="w2"
    )


def peft_model(student: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True)


def trl_gradients(model: Any, names: Any) -> dict[str, np.ndarray]:
    """By the learner's names, in which the adapter is called otherwise."""
    arrays = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = name.split("base_model.model.", 1)[1].replace(".default.", ".policy.")
            arrays[name] = parameter.grad.numpy()
    assert arrays.keys() == names
    return arrays


def padded(rows: list[tuple[int, ...]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


def padded_floats(rows: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.pad(row, (0, max(map(len, rows)) - len(row))) for row in rows]))


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    common = {"bf16": False, "gradient_checkpointing": False, "report_to": [], "use_cpu": True}
    return {"output_dir": str(folder), "per_device_train_batch_size": 2, **common, **more}


def unweighted(group: TrainGroup) -> TrainGroup:
    """trl knows neither weights nor, for `sigmoid`, smoothing of a pair."""
    plain = replace(group.targets, pair_weight=np.ones(1), pair_smoothing=np.zeros(1))
    return replace(group, targets=plain)


def learner_gradient(learner: Any, batch: GroupBatch) -> tuple[float, dict[str, np.ndarray]]:
    loss = group_gradient(learner.model, batch)["loss"]
    return loss, gradients(learner)


def test_dpo(student: Path, tmp_path: Path, tokenizer: Any) -> None:
    """`loss_type=["sigmoid", "sft"]`, `loss_weights=[1, nll]`, our beta; the reference is the bare base."""
    from datasets import Dataset

    learner = open_learner(student)
    groups = [unweighted(group) for group in random_groups(learner)]
    ours = learner_gradient(learner, GroupBatch(Dpo(beta=0.3, nll=0.2), tuple(groups)))

    model = peft_model(student, learner.snapshot(tmp_path / "policy"))
    row = {"prompt": "w5", "chosen": "w6", "rejected": "w7"}
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**settings(tmp_path, beta=0.3, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2])),
        train_dataset=Dataset.from_list([row, row]),
        processing_class=tokenizer,
    )
    # trl would take a copy of the loaded adapter as the reference; ours is the base without any.
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    trainer.model.eval()
    chosen, rejected = [g.rows[-1] for g in groups], [g.rows[0] for g in groups]
    ids, attended = padded([r.prompt + r.completion for r in (*chosen, *rejected)])
    answers = attended.clone()
    for i, r in enumerate((*chosen, *rejected)):
        answers[i, : len(r.prompt)] = 0
    loss = trainer.compute_loss(
        trainer.model, {"input_ids": ids, "attention_mask": attended, "completion_mask": answers}
    )
    assert ours[0] == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    assert_near(ours[1], trl_gradients(trainer.model, ours[1].keys()), 1e-4)


def test_grpo(student: Path, tmp_path: Path, tokenizer: Any) -> None:
    """`loss_type="dapo"`, `mask_truncated_completions=True`, our epsilon and beta (`kl`).

    `use_bias_correction_kl=False`: trl would multiply the penalty by the policy ratio.
    """
    from datasets import Dataset

    learner = open_learner(student)
    groups = random_groups(learner, sizes=(4, 4))
    assert any(not group.targets.member.all() for group in groups)  # a truncated candidate
    ours = learner_gradient(learner, GroupBatch(Grpo(eps=0.1, kl=0.2), groups))

    model = peft_model(student, learner.snapshot(tmp_path / "policy"))
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(
            **settings(tmp_path, beta=0.2, epsilon=0.1, loss_type="dapo", mask_truncated_completions=True),
            use_bias_correction_kl=False,
            num_generations=2,
            temperature=1.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": "w5"}] * 2),
        processing_class=tokenizer,
    )
    trainer.model.eval()
    rows = [row for group in groups for row in group.rows]
    prompt_ids, prompt_mask = padded([row.prompt for row in rows], left=True)
    completion_ids, completion_mask = padded([row.completion for row in rows])
    member = torch.from_numpy(np.concatenate([group.targets.member for group in groups]))
    completion_mask = completion_mask * member[:, None].long()  # what mask_truncated_completions does
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.from_numpy(np.concatenate([group.targets.advantage for group in groups])).float(),
        "old_per_token_logps": padded_floats([row for group in groups for row in group.behaviour]),
        "ref_per_token_logps": padded_floats([row for group in groups for row in group.reference]),
        "num_items_in_batch": completion_mask.sum(),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    assert ours[0] == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    assert_near(ours[1], trl_gradients(trainer.model, ours[1].keys()), 1e-4)
