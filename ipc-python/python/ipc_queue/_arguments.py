"""Checks of arguments. Each error names the argument."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number in a range, both ends included."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name} must be >= {least}")
    if number > most:
        raise ValueError(f"{name} must be <= {most}")
    return number


def seconds(name: str, value: Any) -> float:
    """Return a number of seconds that is not negative."""
    if not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} is a number of seconds, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} is out of range") from None
    if not 0 <= number < 1e10:
        raise ValueError(f"{name} is {number}, which is not a number of seconds from 0 to 1e10")
    return number
