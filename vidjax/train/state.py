"""Everything that training changes, as one tree of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vidjax.nn.functional import Tree


@struct.dataclass
class TrainState:
  """State of a run after `step` optimiser steps.

  Attributes:
    step: int32 scalar.
    params: what the optimiser changes, nested by module.
    stats: running statistics of norms, empty for models without them.
    opt_state: the optimiser's own state.
    ema: moving average of `params`; None if it is off.
  """

  # Any: trees of the state's shapes and shardings are of this class too.
  step: Any
  params: Any
  stats: Any
  opt_state: Any
  ema: Any

  @property
  def eval_params(self) -> Tree:
    """The parameters to evaluate: the moving average where there is one."""
    return self.params if self.ema is None else self.ema


def make_init(
  initial: Callable[[jax.Array], tuple[Tree, Tree]],
  optimizer: optax.GradientTransformation,
  *,
  ema: bool,
) -> Callable[[jax.Array], TrainState]:
  """Returns a function from a key to the state at step 0.

  Args:
    initial: from a key to `(params, stats)`.
    optimizer: whose state is initialised.
    ema: whether a moving average is kept.
  """

  def init(key: jax.Array) -> TrainState:
    params, stats = initial(key)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      stats=stats,
      opt_state=optimizer.init(params),
      ema=jax.tree.map(jnp.copy, params) if ema else None,
    )

  return init
