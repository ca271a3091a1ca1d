"""The student's own tokenizer, read from its checkpoint with `tokenizers`: text to ids and back, and its stops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pudistill_cli.chat_template import PLAIN, ChatTemplate
from pudistill_cli.contract import Tokens
from pudistill_cli.errors import DataError
from pudistill_cli.prompts import Message
