"""What llama.cpp's pre-tokenizers split by is what real tokenizers have: our limits let all of it pass."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from pudistill_cli.models.regex_limits import check_pattern


def test_no_pattern_of_a_known_pre_tokenizer_is_refused(upstream: Path) -> None:
    source = (upstream / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    blocks = re.findall(r"regex_exprs = \{(.*?)\};", source, re.DOTALL)
    literals = [text for block in blocks for text in re.findall(r'^\s*("(?:[^"\\]|\\.)*")', block, re.MULTILINE)]
    patterns = {ast.literal_eval(text) for text in literals}
    assert len(blocks) > 30
    assert len(patterns) > 40
    for pattern in patterns:
        check_pattern(pattern)
