import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.channel_shift import shift_channels

shift = oracles.jit(shift_channels, static_argnums=(1, 2))

# (frames, channels, offsets, width): short clips, far offsets, all channels,
# repeated and zero offsets.
CASES = [
  (1, 8, (1, -1), 2),
  (2, 8, (1, -1), 4),
  (5, 7, (1, -1), 1),
  (5, 9, (-1, 1, 3), 3),
  (3, 12, (2, -2, 5, -5), 2),
  (4, 6, (0, 1), 2),
  (4, 6, (1, 1), 3),
  (4, 6, (-3,), 6),
]


@pytest.mark.parametrize(("t", "c", "offsets", "width"), CASES)
def test_equals_the_loop(t, c, offsets, width):
  x = oracles.normal(2, t, c)
  y = shift(x, offsets, width)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, oracles.shift(x, offsets, width))


@pytest.mark.parametrize("rest", [(3,), (2, 3)])
def test_axes_between_frames_and_channels(rest):
  x = oracles.normal(2, 5, *rest, 9)
  np.testing.assert_array_equal(
    shift(x, (-1, 1, 3), 3), oracles.shift(x, (-1, 1, 3), 3)
  )


def test_four_frames_by_hand():
  x = jnp.arange(1.0, 13.0).reshape(1, 4, 3)  # frame t is 3t + (1, 2, 3)
  y = shift_channels(x, (1, -1), 1)
  want = [[4, 0, 3], [7, 2, 6], [10, 5, 9], [0, 8, 12]]
  np.testing.assert_array_equal(y[0], want)


def test_width_zero_and_no_offsets_change_nothing():
  x = oracles.normal(1, 3, 4)
  np.testing.assert_array_equal(shift_channels(jnp.asarray(x), (1, -1), 0), x)
  np.testing.assert_array_equal(shift(x, (), 2), x)


@pytest.mark.parametrize(
  ("offsets", "width", "message"),
  [
    ((1, -1), 4, "2 groups of 4 channels do not fit in 7 channels"),
    ((1,), -1, "1 groups of -1 channels do not fit"),
  ],
)
def test_groups_that_do_not_fit(offsets, width, message):
  with pytest.raises(ValueError, match=message):
    shift_channels(jnp.zeros((1, 2, 7)), offsets, width)


def test_low_precision_moves_bits():
  x = oracles.normal(1, 4, 8).astype(jnp.bfloat16)
  y = shift(x, (1, -1), 2)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(oracles.array(y), oracles.shift(x, (1, -1), 2))


seeds = st.integers(0, 2**31 - 1)
cases = st.sampled_from(CASES)


@settings(deadline=None, max_examples=25)
@given(case=cases, seed=seeds, a=st.integers(-8, 8), b=st.integers(-8, 8))
def test_linear(case, seed, a, b):
  t, c, offsets, width = case
  rng = np.random.default_rng(seed)
  # Small integers: float32 adds them exactly.
  x, y = rng.integers(-99, 99, (2, 2, t, c)).astype(np.float32)
  np.testing.assert_array_equal(
    shift(a * x + b * y, offsets, width),
    a * shift(x, offsets, width) + b * shift(y, offsets, width),
  )


@settings(deadline=None, max_examples=25)
@given(case=cases, seed=seeds)
def test_reversed_time_negates_the_offsets(case, seed):
  t, c, offsets, width = case
  x = oracles.normal(2, t, c, seed=seed)
  opposite = tuple(-o for o in offsets)
  np.testing.assert_array_equal(
    shift(x[:, ::-1], offsets, width),
    shift(x, opposite, width)[:, ::-1],
  )


@pytest.mark.parametrize(("t", "c", "offsets", "width"), CASES[1:4])
def test_gradient_is_the_opposite_shift(t, c, offsets, width):
  x, ct = oracles.normal(2, 2, t, c)

  @oracles.jit
  def gradient(x, ct):
    return jax.vjp(lambda x: shift_channels(x, offsets, width), x)[1](ct)[0]

  np.testing.assert_array_equal(
    gradient(x, ct), oracles.shift(ct, tuple(-o for o in offsets), width)
  )


@pytest.mark.parametrize(("t", "c", "offsets", "width"), CASES)
def test_videos_do_not_leak(t, c, offsets, width):
  x = oracles.normal(2, t, c)
  for changed, other in ((0, 1), (1, 0)):
    y = x.copy()
    y[changed] = np.inf
    np.testing.assert_array_equal(
      shift(y, offsets, width)[other], shift(x, offsets, width)[other]
    )
