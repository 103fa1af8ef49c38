"""Checks of arguments that fail with one sentence."""

from collections.abc import Collection
from typing import TypeVar

T = TypeVar("T")


def one_of(name: str, value: T, allowed: Collection[T]) -> T:
  """Returns `value` if it is allowed.

  Raises:
    ValueError: otherwise; the message names the argument, the value and what
      is allowed.
  """
  if value not in allowed:
    known = ", ".join(repr(a) for a in allowed)
    raise ValueError(f"{name} is {value!r}; use one of {known}")
  return value
