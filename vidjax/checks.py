"""Checks of arguments that fail with one sentence."""

import inspect
from collections.abc import Callable, Collection, Mapping
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


def at_least(least: int, **values: int) -> None:
  """Checks that numbers are not below a limit.

  Raises:
    ValueError: naming the first that is.
  """
  for name, value in values.items():
    if value < least:
      raise ValueError(f"{name} is {value}; use {least} or more")


def rates(**values: float) -> None:
  """Checks that probabilities are in [0, 1).

  Raises:
    ValueError: naming the first that is not.
  """
  for name, value in values.items():
    if not 0 <= value < 1:
      raise ValueError(f"{name} is {value}; use a number in [0, 1)")


def known_arguments(
  what: str,
  function: Callable[..., Any],
  given: Mapping[str, Any],
  context: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns what to call a function with: options, and context it wants.

  Args:
    what: named in the error.
    function: or class, whose parameters are looked up.
    given: options of the user; each must be a parameter.
    context: further values, passed on if they are parameters.

  Raises:
    ValueError: if an argument of the user is unknown or missing.
  """
  if inspect.isclass(function):
    function = function.__init__
  parameters = {
    name: p.default
    for name, p in inspect.signature(function).parameters.items()
    if name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
  }
  options = sorted(set(parameters) - set(context))
  listed = f"its arguments are {', '.join(options) or 'none'}"
  for name in given:
    if name not in options:
      raise ValueError(f"{what}: there is no argument {name!r}; {listed}")
  for name in options:
    if name not in given and parameters[name] is inspect.Parameter.empty:
      raise ValueError(f"{what}: the argument {name!r} is missing; {listed}")
  return dict(given) | {k: v for k, v in context.items() if k in parameters}
