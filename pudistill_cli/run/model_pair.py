"""The engine and the learner of a run: loaded when first needed, and in turns where memory has no room for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pudistill_cli.backend_api.contract import Engine, Learner
from pudistill_cli.backend_api.oom_retry import OnHalved, retrying_engine, retrying_learner
from pudistill_cli.run.memo import Memo, remembering_engine, remembering_learner


class ModelPair:
    """Asking for one of them makes sure that it is loaded, and with `in_turns` that the other is not.

    Both try again in smaller passes where memory was short, and call `on_halved` then. What they score is in `memo`
    until a stage says that it is in the ledger; `budget` is the tokens in a pass as the run resolved it.
    """

    def __init__(
        self,
        engine: Engine,
        learn: Callable[[Engine], Learner],
        on_halved: OnHalved,
        memo: Memo,
        budget: int,
        *,
        in_turns: bool = False,
    ) -> None:
        self.memo, self._budget = memo, budget
        self._lender = engine
        self._engine = remembering_engine(retrying_engine(engine, on_halved), memo, budget)
        self._learn, self._on_halved, self._in_turns = learn, on_halved, in_turns
        self._learner: Learner | None = None
        self._state: Path | None = None
        self._freed = False

    @property
    def engine(self) -> Engine:
        """To sample and score with."""
        if self._in_turns and self._learner is not None:
            self._learner.close()
            self._learner = None
            self._engine.resume()
        return self._engine

    @property
    def learner(self) -> Learner:
        """To train with; it goes on from where it was last saved."""
        if self._learner is None:
            if self._in_turns:
                self._engine.suspend()
            learner = retrying_learner(self._learn(self._lender), self._on_halved)
            self._learner = remembering_learner(learner, self.memo, self._budget)
            if self._state is not None:
                self._learner.restore(self._state)
        return self._learner

    def save(self, path: Path) -> None:
        """Write the learner's state to `path`, from where it goes on when it is loaded again."""
        self.learner.save(path)
        self._state = path

    def go_on_from(self, path: Path) -> None:
        """A state that `save` wrote, or an adapter alone: then the optimizer starts anew."""
        self._state = path
        if self._learner is not None:
            self._learner.restore(path)

    def free(self) -> None:
        """Give the memory of both back, for good."""
        if not self._freed:
            self._freed = True
            if self._learner is not None:
                self._learner.close()
            self._engine.close()
