import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from vidjax.ops.periodic_shift import periodic_shift, plain_shift

periodic = oracles.jit(periodic_shift, static_argnums=(1, 2))
plain = oracles.jit(plain_shift, static_argnums=1)


def naive(y, heads, fold_div):
  """One channel of one frame at a time, by its number z in the head."""
  result = np.zeros_like(y)
  frames, width = y.shape[1], y.shape[-1] // heads
  f = width // fold_div
  for t in range(frames):
    for c in range(y.shape[-1]):
      z = c % width
      source = t + 1 if z < f else t - 1 if z < 2 * f else t
      if 0 <= source < frames:
        result[:, t, :, c] = y[:, source, :, c]
  return result


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(
  ("channels", "heads", "fold_div"),
  [(24, 3, 4), (24, 3, 2), (20, 2, 4), (24, 4, 8), (24, 1, 4), (14, 2, 3)],
)
def test_equals_the_loop(frames, channels, heads, fold_div):
  y = oracles.normal(2, frames, 3, channels)
  np.testing.assert_array_equal(
    periodic(y, heads, fold_div), naive(y, heads, fold_div)
  )
  np.testing.assert_array_equal(plain(y, fold_div), naive(y, 1, fold_div))


def test_by_hand():
  # Three frames of two heads of four channels.
  y = jnp.arange(1.0, 25.0).reshape(1, 3, 1, 8)
  want = [
    [9, 0, 3, 4, 13, 0, 7, 8],
    [17, 2, 11, 12, 21, 6, 15, 16],
    [0, 10, 19, 20, 0, 14, 23, 24],
  ]
  np.testing.assert_array_equal(periodic_shift(y, 2, 4)[0, :, 0], want)
  want = [
    [9, 10, 0, 0, 5, 6, 7, 8],
    [17, 18, 3, 4, 13, 14, 15, 16],
    [0, 0, 11, 12, 21, 22, 23, 24],
  ]
  np.testing.assert_array_equal(plain_shift(y, 4)[0, :, 0], want)


def test_the_pattern_repeats_from_head_to_head():
  head = oracles.normal(2, 4, 3, 8)
  y = np.concatenate([head] * 3, axis=-1)
  moved = np.split(np.asarray(periodic(y, 3, 4)), 3, axis=-1)
  np.testing.assert_array_equal(moved[0], plain(head, 4))
  np.testing.assert_array_equal(moved[1], moved[0])
  np.testing.assert_array_equal(moved[2], moved[0])


def test_too_few_channels_stay():
  y = oracles.normal(1, 3, 2, 12)
  np.testing.assert_array_equal(periodic(y, 4, 4), y)  # heads of 3 channels


def test_parts_that_do_not_fit():
  with pytest.raises(ValueError, match="2 groups of 4 channels do not fit"):
    periodic_shift(jnp.zeros((1, 2, 3, 8)), 2, 1)


def test_stored_shifts(shared):
  with np.load(shared / "golden" / "laps" / "patterns.npz") as stored:
    given = stored["shift/periodic/T8/in"]  # (b t) g n d
    want = stored["shift/periodic/T8/fold4"]
  y = given.reshape(2, 8, 2, 3, 8).swapaxes(2, 3).reshape(2, 8, 3, 16)
  moved = np.asarray(periodic(y.astype(np.float32), 2, 4))
  moved = moved.reshape(2, 8, 3, 2, 8).swapaxes(2, 3).reshape(want.shape)
  np.testing.assert_array_equal(moved, want)
