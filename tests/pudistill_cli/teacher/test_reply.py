"""`Retry-After` in both its forms; the rest of reply.py is tested over HTTP in test_endpoint.py."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pudistill_cli.teacher.reply import retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90.0),
        ("Sun, 01 Mar 2026 14:00:10 +0200", 10.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("-3", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("3 apples", None),
        (None, None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, NOW) == seconds
