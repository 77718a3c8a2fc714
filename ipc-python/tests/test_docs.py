"""The guide: each difference that it states names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
GUIDE = TESTS.parent / "docs/from-multiprocessing.md"


def test_each_difference_has_its_test():
    named = set(re.findall(r"\| `(test_\w+)` \|$", GUIDE.read_text(), re.M))
    rows = [
        line
        for line in GUIDE.read_text().splitlines()
        if re.match(r"\| (?!`multi|`conc|---)", line)
    ]
    assert len(rows) >= 18
    assert all(re.search(r"`test_\w+` \|$", row) for row in rows), rows
    written = "".join(path.read_text() for path in TESTS.glob("test_*.py"))
    assert [name for name in sorted(named) if f"def {name}(" not in written] == []
