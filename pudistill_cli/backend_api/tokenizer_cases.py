"""Texts that tokenizers split in different ways: what an export's tokenizer is tried on."""

from __future__ import annotations

STRESS = (
    "0 7 42 365 1984 31415 1,000,000.50 3.14e-10 0xFF ½ x² H₂O ٣٤٥ 二〇二六",
    " leading, trailing   three    four\ttab\t\ttabs \n\n\nlines\r\nend \n ",
    "I'm we'll they'd IT'S don't Y'ALL ''quoted'' \"double\" `back` — – … ‘’ “”",
    "🙂 👩‍👩‍👧‍👦 🇪🇺 👍🏽 ❤️ ⏎ ☃ ✓",
    "Ünïcode naïve façade Straße Œuvre İstanbul ěščřž",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界。日本語のテキスト。カタカナ 한국어 문장",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # <tag attr='v'/>\n\nfor(int i=0;i<n;++i){a[i]^=~b;}\n",
    "https://example.org/a_b-c?d=%20&e=f#g user@example.com snake_case camelCase SCREAMING_CASE ../path\\to",
    "a",
    " ",
    "\n",
)
"""In Unicode's composed form: llama.cpp normalises nothing."""
