"""Durations given in steps or in epochs."""


def in_steps(
  name: str, *, epochs: float, steps: int, steps_per_epoch: int
) -> int:
  """Returns a duration in optimiser steps, at least one.

  Args:
    name: what the duration is of, for the error.
    epochs: passes over the training split; 0 if `steps` is given.
    steps: optimiser steps; 0 if `epochs` is given.
    steps_per_epoch: optimiser steps of one pass.

  Raises:
    ValueError: unless exactly one of the two is positive.
  """
  if (epochs > 0) == (steps > 0) or epochs < 0 or steps < 0:
    raise ValueError(
      f"{name} has {epochs} epochs and {steps} steps: set one of them to a "
      "positive number and the other to 0"
    )
  return steps if steps else max(1, round(epochs * steps_per_epoch))
