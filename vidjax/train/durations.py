"""Durations given in steps or in epochs."""

from vidjax.checks import Config


def in_steps(name: str, section: Config, steps_per_epoch: int) -> int:
  """Returns a duration of the configuration in optimiser steps, at least one.

  Args:
    name: section and prefix of the two keys, e.g. "eval.every_" for
      `eval.every_epochs` and `eval.every_steps`.
    section: the section that holds both keys.
    steps_per_epoch: optimiser steps of one pass over the training split.

  Raises:
    ValueError: unless exactly one of the two is positive.
  """
  prefix = name.partition(".")[2]
  epochs, steps = section[f"{prefix}epochs"], section[f"{prefix}steps"]
  if (epochs > 0) == (steps > 0) or epochs < 0 or steps < 0:
    raise ValueError(
      f"{name}epochs is {epochs} and {name}steps is {steps}: set one of them "
      "to a positive number and the other to 0"
    )
  return steps if steps else max(1, round(epochs * steps_per_epoch))
