"""The objectives a recipe can name. A program adds its own by one line: `OBJECTIVES[Own.name] = Own`."""

from __future__ import annotations

from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.grpo import Grpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.pu_dpo import PuDpo
from pudistill_cli.method.objectives.rft import Rft
from pudistill_cli.method.objectives.sdft import Sdft
from pudistill_cli.method.objectives.spin import Spin

OBJECTIVES: dict[str, type[Objective]] = {o.name: o for o in (Dpo, Grpo, LdlGrpo, PuDpo, Rft, Sdft, Spin)}
