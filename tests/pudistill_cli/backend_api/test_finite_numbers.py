"""NaN and infinity are found where numbers leave a backend, and no adapter that holds them is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pudistill_cli.backend_api.finite_numbers import require_finite_adapter
from pudistill_cli.backend_api.oom_retry import retrying_engine, retrying_learner
from pudistill_cli.errors import DataError, TrainingError
from pudistill_cli.types import Candidate, Continuations, PromptTokens, Sampling

GOOD = np.array([-0.5, -1.0], dtype=np.float32)
BAD = (np.nan, np.inf, -np.inf)
SAMPLING = Sampling(4)
Ask = Callable[[Any, Any], Any]
ASKS: dict[str, Ask] = {
    "sample": lambda model, adapter: list(model.sample([PromptTokens("k", (1,))] * 2, 2, SAMPLING, adapter)),
    "logprobs": lambda model, adapter: list(model.logprobs([Continuations((1,), ((2,),))] * 2, adapter)),
    "choice_logits": lambda model, adapter: list(model.choice_logits([Continuations((1,), ((2,),))] * 2, [3], adapter)),
    "distributions": lambda model, adapter: model.distributions([1, 2], 1, adapter),
}


class Model:
    """Gives good numbers, then the planted one."""

    def __init__(self, planted: float) -> None:
        self.numbers = np.array([-0.5, planted], dtype=np.float32)

    def sample(self, prompts: Any, k: int, sampling: Any, adapter: Any) -> Iterator[tuple[int, Any]]:
        good = Candidate((1, 2), GOOD, "stop")
        yield 0, (good, good)
        yield 1, (good, Candidate((1, 2), self.numbers, "stop"))

    def logprobs(self, requests: Any, adapter: Any) -> Iterator[tuple[int, Any]]:
        yield 0, (GOOD,)
        yield 1, (GOOD, self.numbers)

    def choice_logits(self, requests: Any, choices: Any, adapter: Any) -> Iterator[tuple[int, Any]]:
        yield 0, GOOD[None]
        yield 1, self.numbers[None]

    def distributions(self, tokens: Any, last_n: int, adapter: Any) -> Any:
        return self.numbers[None]


@pytest.mark.parametrize("planted", BAD)
@pytest.mark.parametrize("asked", ASKS)
def test_a_student_whose_numbers_are_damaged_is_named(asked: str, planted: float) -> None:
    engine = retrying_engine(Model(planted), pytest.fail)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="its weights are damaged, or too large for their type") as base:
        ASKS[asked](engine, None)
    assert "--set student.dtype=float32" in base.value.hint
    with pytest.raises(TrainingError, match="With its adapter") as trained:
        ASKS[asked](engine, 1)
    assert "lower rate" in trained.value.hint
    assert ASKS[asked](retrying_engine(Model(-1.0), pytest.fail), None) is not None  # type: ignore[arg-type]


def test_what_came_before_is_not_lost() -> None:
    prompts = [PromptTokens("k", (1,))] * 2
    groups = retrying_engine(Model(np.nan), pytest.fail).sample(prompts, 2, SAMPLING, None)  # type: ignore[arg-type]
    assert next(groups)[0] == 0
    with pytest.raises(DataError):
        next(groups)


def test_a_learner_s_numbers_are_looked_at_too() -> None:
    with pytest.raises(TrainingError, match="With its adapter"):
        ASKS["logprobs"](retrying_learner(Model(np.nan), pytest.fail), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("planted", BAD)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_adapter_that_a_step_has_spoilt_is_not_kept(planted: float, kind: Any, tmp_path: Path) -> None:
    good = np.ones((2, 3), kind)
    bad = good.copy()
    bad[1, 2] = planted
    save_file({"a": good, "b": good}, tmp_path / "adapter_model.safetensors")
    require_finite_adapter(tmp_path)
    save_file({"a": good, "b": bad}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match=r"not finite after this training \(b\)"):
        require_finite_adapter(tmp_path)
