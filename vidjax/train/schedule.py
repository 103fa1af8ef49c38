"""Learning rates by step: a table of schedules, each a small function."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vidjax.checks import Config, one_of


def learning_rate(
  config: Config,
  total_steps: int,
  steps_per_epoch: int,
  micro_batches: int = 1,
) -> optax.Schedule:
  """Returns the learning rate by step that a configuration describes.

  Args:
    config: name, one of `SCHEDULES`, and what that schedule reads.
    total_steps: of the training.
    steps_per_epoch: optimiser steps of one epoch.
    micro_batches: of each optimiser step, for schedules that move at every one
      of them: a step has the rate of its last.

  Raises:
    ValueError: if the name is unknown, a value is of no use or the warm-up is
      longer than the training.
  """
  one_of("schedule.name", config.name, SCHEDULES)
  epochs = total_steps / steps_per_epoch
  if not 0 <= config.warmup_epochs <= epochs:
    raise ValueError(
      f"schedule.warmup_epochs is {config.warmup_epochs}, but the training has "
      f"{epochs:.4g} epochs; use a value between 0 and that"
    )
  if config.name not in BY_MICRO_BATCH:
    return SCHEDULES[config.name](config, epochs, steps_per_epoch)
  schedule = SCHEDULES[config.name](
    config, epochs, steps_per_epoch * micro_batches
  )
  return lambda step: schedule(micro_batches * (step + 1) - 1)


def cosine(
  config: Config, epochs: float | int, steps_per_epoch: int
) -> optax.Schedule:
  """A cosine that moves at every step, after a straight line to it (X-ViT).

  At the (fractional) epoch e of E the cosine is
  `final + (base - final) * (1 + cos(pi e / E)) / 2`. During the first W epochs
  the rate goes in a straight line from `warmup_lr` to the cosine's own value
  at W, which is below `base_lr`.

  Args:
    config: base_lr, warmup_lr, warmup_epochs (W), final_lr.
    epochs: E, of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if a rate is not a number of 0 or more.
  """
  _check_rates(config, "base_lr", "warmup_lr", "final_lr")
  start, warmup = config.warmup_lr, config.warmup_epochs

  def schedule(step):
    epoch = jnp.asarray(step, jnp.float32) / steps_per_epoch
    rate = _cosine(config, epoch, epochs)
    if not warmup:
      return rate
    ramp = start + (_cosine(config, warmup, epochs) - start) * epoch / warmup
    return jnp.where(epoch < warmup, ramp, rate)

  return schedule


def epoch_cosine(
  config: Config, epochs: float | int, steps_per_epoch: int
) -> optax.Schedule:
  """A cosine that moves once per epoch (the Swin recipes of mmcv: TPS).

  In the whole epoch e = 0, 1, ... of E the rate is
  `final + (base - final) * (1 + cos(pi e / E)) / 2`, multiplied by the warm-up
  (`linear_warmup`).

  Args:
    config: base_lr, final_lr, warmup_epochs, warmup_factor.
    epochs: E, of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if a rate is not a number of 0 or more or the factor is not in
      [0, 1].
  """
  _check_rates(config, "base_lr", "final_lr")
  warmup = linear_warmup(config, steps_per_epoch)

  def schedule(step):
    epoch = jnp.asarray(step) // steps_per_epoch
    return _cosine(config, epoch, epochs) * warmup(step)

  return schedule


def steps(
  config: Config, epochs: float | int, steps_per_epoch: int
) -> optax.Schedule:
  """A rate that falls at given epochs (TokShift, LAPS).

  It is `base * decay_factor ** n` after n of the `decay_epochs` (rounded to
  whole steps; those beyond the training never come), multiplied by the warm-up
  (`linear_warmup`).

  Args:
    config: base_lr, decay_epochs, decay_factor, warmup_epochs, warmup_factor.
    epochs: of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if the epochs are not positive and rising, the rate or the
      decay is not a number of 0 or more, or the warm-up's factor is not in
      [0, 1].
  """
  del epochs
  _check_rates(config, "base_lr", "decay_factor")
  falls = list(config.decay_epochs)
  if falls != sorted({fall for fall in falls if fall > 0}):
    raise ValueError(
      f"schedule.decay_epochs is {config.decay_epochs}; give positive epochs, "
      "each later than the one before"
    )
  warmup = linear_warmup(config, steps_per_epoch)
  at = [round(fall * steps_per_epoch) for fall in falls]
  base, factor = config.base_lr, config.decay_factor
  rates = [base * factor**n for n in range(len(falls) + 1)]

  def schedule(step):
    fallen = sum((jnp.asarray(step) >= fall).astype(jnp.int32) for fall in at)
    return jnp.asarray(rates, jnp.float32)[fallen] * warmup(step)

  return schedule


def gradual_cosine(
  config: Config, epochs: float | int, steps_per_epoch: int
) -> optax.Schedule:
  """A straight line up to the base rate, then a cosine one step late (SIFA).

  At the steps 0 ... W of the warm-up the rate goes in a straight line from
  `base_lr * warmup_factor` to `base_lr`. The cosine starts at step W + 1 with
  `base_lr` again, so that it is one step behind and does not quite reach
  `final_lr`. `learning_rate` counts micro-batches as its steps.

  Args:
    config: base_lr, warmup_epochs, warmup_factor, final_lr.
    epochs: of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if a rate is not a number of 0 or more, or warmup_factor is not
      in [0, 1].
  """
  _check_rates(config, "base_lr", "final_lr")
  ramp = linear_warmup(config, steps_per_epoch)
  warmup = config.warmup_epochs * steps_per_epoch
  length = max(epochs * steps_per_epoch - warmup, 1)

  def schedule(step):
    late = _cosine(config, jnp.asarray(step) - warmup - 1, length)
    return jnp.where(step <= warmup, config.base_lr * ramp(step), late)

  return schedule


def linear_warmup(config: Config, steps_per_epoch: int) -> optax.Schedule:
  """Returns the factor of the learning rate during the first epochs.

  It goes in a straight line, step by step, from `warmup_factor` at step 0 to 1
  at the end of the warm-up and stays there (the "linear" rule of mmcv).

  Args:
    config: warmup_epochs, not negative, and warmup_factor.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if warmup_factor is not in [0, 1].
  """
  start = config.warmup_factor
  if not 0 <= start <= 1:
    raise ValueError(
      f"schedule.warmup_factor is {start}; use a number in [0, 1]"
    )
  length = config.warmup_epochs * steps_per_epoch

  def factor(step):
    if not length:
      return jnp.ones((), jnp.float32)
    left = jnp.maximum(1 - jnp.asarray(step, jnp.float32) / length, 0)
    return 1 - left * (1 - start)

  return factor


SCHEDULES: dict[str, Callable[[Config, float, int], optax.Schedule]] = {
  "cosine": cosine,
  "epoch_cosine": epoch_cosine,
  "steps": steps,
  "gradual_cosine": gradual_cosine,
}
BY_MICRO_BATCH = ("gradual_cosine",)  # others move at optimiser steps


def _cosine(
  config: Config, epoch: jax.Array | float | int, epochs: float | int
) -> jax.Array:
  base, final = config.base_lr, config.final_lr
  return final + (base - final) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2


def _check_rates(config: Config, *names: str) -> None:
  for name in names:
    value = config[name]
    if not 0 <= value < math.inf:
      raise ValueError(f"schedule.{name} is {value}; use a number of 0 or more")
