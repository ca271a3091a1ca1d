"""An adapter nearer to the base: what was learned, in part (WiSE-FT; Wortsman et al. 2022, arXiv 2109.01903).

The weights half-way between base and fine-tuned student are often as good on prompts like those it learned from, and
better on others. A LoRA adapter adds (alpha / r) B A, so a factor on its alpha is such an interpolation of all weights.
"""

from __future__ import annotations

import json
import shutil

from pudistill_cli.atomic import replace_folder
from pudistill_cli.peft_adapter import CONFIG
from pudistill_cli.rundir import RunFolder


def interpolated(folder: RunFolder, name: str, share: float) -> str:
    """Write base + `share` of what `adapters/<name>` adds to it as an adapter of its own; returns its name."""
    nearer = f"{name}-at-{share:g}"
    final = folder.adapter(nearer)
    temporary = final.with_name(f".{nearer}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder.adapter(name), temporary)
    config = json.loads((temporary / CONFIG).read_text(encoding="utf-8"))
    config["lora_alpha"] *= share
    (temporary / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    replace_folder(temporary, final)
    return nearer
