"""The learning rate of SIFA's official recipe."""

import math

import jax.numpy as jnp
import optax

from vidjax.checks import Config


def gradual_cosine(
  config: Config, epochs: float | int, steps_per_epoch: int
) -> optax.Schedule:
  """A straight line up to the base rate, then a cosine one step late (SIFA).

  At the steps 0 ... W of the warm-up the rate goes in a straight line from
  `base_lr * warmup_factor` to `base_lr`. The cosine starts at step W + 1 with
  `base_lr` again, so that it is one step behind and does not quite reach
  `final_lr`.

  Args:
    config: base_lr, warmup_epochs, warmup_factor, final_lr.
    epochs: of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if a rate is not a number of 0 or more, or warmup_factor is not
      in [0, 1].
  """
  for name in ("base_lr", "final_lr"):
    if not 0 <= config[name] < math.inf:
      raise ValueError(
        f"schedule.{name} is {config[name]}; use a number of 0 or more"
      )
  start, base, final = config.warmup_factor, config.base_lr, config.final_lr
  if not 0 <= start <= 1:
    raise ValueError(
      f"schedule.warmup_factor is {start}; use a number in [0, 1]"
    )
  warmup = config.warmup_epochs * steps_per_epoch
  length = max(epochs * steps_per_epoch - warmup, 1)

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    share = jnp.clip(step / warmup if warmup else 1.0, 0, 1)
    ramp = base * (start + (1 - start) * share)
    angle = jnp.pi * (step - warmup - 1) / length
    cosine = final + (base - final) * (1 + jnp.cos(angle)) / 2
    return jnp.where(step <= warmup, ramp, cosine)

  return schedule
