import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.train.nonfinite import (
  FiniteCheck,
  NonFiniteError,
  skip_nonfinite,
)
from vidjax.train.state import TrainState


def state(step: int, value: float) -> TrainState:
  array = jnp.full(3, value)
  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    params={"w": array},
    stats={"mean": array + 1},
    opt_state=({"mu": array + 2}, jnp.asarray(int(value), jnp.int32)),
    ema=None,
  )


def metrics(loss: float, norm: float) -> dict[str, jax.Array]:
  return {
    "loss": jnp.asarray(loss),
    "gradient_norm": jnp.asarray(norm),
    "lr": jnp.asarray(0.1),
  }


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf])
@pytest.mark.parametrize("norm", [2.0, math.nan, -math.inf])
@pytest.mark.parametrize("jit", [False, True])
def test_a_bad_step_leaves_all_but_the_number(loss, norm, jit):
  old, new = state(4, 1.0), state(5, 2.0)
  # What a bad step would leave behind must not reach the result by 0 * NaN.
  good = math.isfinite(loss) and math.isfinite(norm)
  if not good:
    new = new.replace(params={"w": jnp.full(3, jnp.nan)})
  function = jax.jit(skip_nonfinite) if jit else skip_nonfinite
  found = function(old, new, metrics(loss, norm))
  expected = new if good else old.replace(step=new.step)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert jax.eval_shape(lambda: found) == jax.eval_shape(lambda: expected)


def test_stop_raises_at_the_first_bad_step():
  check = FiniteCheck("stop", 10)
  check(1, metrics(1.0, 1.0))
  with pytest.raises(
    NonFiniteError, match=r"step 2: loss is 1\.0 and the gradient norm nan; "
  ):
    check(2, metrics(1.0, math.nan))


def test_skip_counts_and_stops_after_too_many_in_a_row():
  check = FiniteCheck("skip", 2)
  losses = [1.0, math.nan, math.inf, 1.0, math.nan, math.nan]
  for step, loss in enumerate(losses):
    check(step, metrics(loss, 1.0))
  assert check.skipped == 4
  with pytest.raises(
    NonFiniteError, match=r"step 6: loss is nan .* after 2 such steps in a row"
  ):
    check(6, metrics(math.nan, 1.0))


def test_wrong_options_are_named():
  with pytest.raises(ValueError, match=r"train\.nonfinite is 'ignore'"):
    FiniteCheck("ignore", 1)
  with pytest.raises(ValueError, match=r"train\.max_skips is 0"):
    FiniteCheck("skip", 0)
