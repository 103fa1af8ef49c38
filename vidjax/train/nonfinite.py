"""Steps whose loss or gradient is not a number: stop, or leave them out."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from vidjax.checks import at_least, one_of
from vidjax.train.state import TrainState

POLICIES = ("stop", "skip")


class NonFiniteError(RuntimeError):
  """The loss or the gradient is no longer a number."""


def skip_nonfinite(
  old_state: TrainState,
  new_state: TrainState,
  metrics: Mapping[str, jax.Array],
) -> TrainState:
  """Leaves out a step whose loss or gradient is not finite; pure.

  Args:
    old_state: before the step.
    new_state: after it.
    metrics: of the step, with the scalars `loss` and `gradient_norm`.

  Returns:
    The new state, or the old one with the new step number, so that the order of
    the data and the random draws go on.
  """
  good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
  kept = jax.tree.map(
    lambda old, new: jnp.where(good, new, old), old_state, new_state
  )
  return dataclasses.replace(kept, step=new_state.step)


class FiniteCheck:
  """Judges each step by its loss and gradient norm.

  Args:
    policy: "stop" raises at the first bad step; "skip" counts it, as the train
      step has left it out.
    most: bad steps in a row that are let pass by "skip".

  Attributes:
    skipped: bad steps so far.
  """

  def __init__(self, policy: str, most: int):
    one_of("train.nonfinite", policy, POLICIES)
    at_least(1, **{"train.max_skips": most})
    self.skipped = 0
    self._most = most if policy == "skip" else 0
    self._row = 0

  def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Judges a step; waits until it has ended.

    Raises:
      NonFiniteError: if the run must not go on.
    """
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    if math.isfinite(loss) and math.isfinite(norm):
      self._row = 0
      return
    self.skipped += 1
    self._row += 1
    if self._row <= self._most:
      logging.warning(
        "step %d is left out: loss is %g and the gradient norm %g",
        step,
        loss,
        norm,
      )
      return
    row = f", after {self._most} such steps in a row" if self._most else ""
    raise NonFiniteError(
      f"step {step}: loss is {loss} and the gradient norm {norm}{row}; the "
      "last checkpoint is good: continue from it with a lower "
      "schedule.base_lr, or set train.clip_norm"
    )
