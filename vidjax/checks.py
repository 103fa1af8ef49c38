"""Checks of arguments that fail with one sentence."""

from collections.abc import Collection
from typing import Any, TypeAlias, TypeVar

# An `ml_collections.ConfigDict`: its attributes are dynamic, so a type checker
# can know nothing of them. configs/common.py lists them all.
Config: TypeAlias = Any
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
