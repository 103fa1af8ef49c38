import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.channel_shift import BORDERS, shift_channels

shift = oracles.jit(
  shift_channels, static_argnums=(1, 2), static_argnames="border"
)

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


def naive_shift(x, offsets, width, border):
  """One channel of one frame at a time; outside, zero or the frame's own."""
  y = np.array(x)
  frames = x.shape[1]
  for t in range(frames):
    for c in range(len(offsets) * width):
      source = t + offsets[c // width]
      if 0 <= source < frames:
        y[:, t, ..., c] = x[:, source, ..., c]
      elif border == "zero":
        y[:, t, ..., c] = 0
  return y


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("t", "c", "offsets", "width"), CASES)
def test_equals_the_loop(t, c, offsets, width, border):
  x = oracles.normal(2, t, c)
  y = shift(x, offsets, width, border=border)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, naive_shift(x, offsets, width, border))


@pytest.mark.parametrize("t", [1, 2, 3])
def test_frames_of_a_short_clip_are_kept(t):
  x = oracles.normal(2, t, 6)
  for offsets in ((3, -3), (-7, 4)):  # beyond the clip, whatever the frame
    np.testing.assert_array_equal(shift(x, offsets, 3, border="keep"), x)
    np.testing.assert_array_equal(shift(x, offsets, 3), 0 * x)


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
  # TPS: the first frame keeps what has no past, the last what has no future.
  y = shift_channels(x, (1, -1), 1, border="keep")
  want = [[4, 2, 3], [7, 2, 6], [10, 5, 9], [10, 8, 12]]
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


def test_unknown_border():
  with pytest.raises(ValueError, match="border is 'wrap'; use one of 'zero', "):
    shift_channels(jnp.zeros((1, 2, 4)), (1, -1), 1, border="wrap")


@pytest.mark.parametrize("border", BORDERS)
def test_low_precision_moves_bits(border):
  x = oracles.normal(1, 4, 8).astype(jnp.bfloat16)
  y = shift(x, (1, -1), 2, border=border)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, naive_shift(x, (1, -1), 2, border))


seeds = st.integers(0, 2**31 - 1)
cases = st.sampled_from(CASES)
borders = st.sampled_from(BORDERS)


@settings(deadline=None, max_examples=25)
@given(
  case=cases,
  border=borders,
  seed=seeds,
  a=st.integers(-8, 8),
  b=st.integers(-8, 8),
)
def test_linear(case, border, seed, a, b):
  t, c, offsets, width = case
  rng = np.random.default_rng(seed)
  # Small integers: float32 adds them exactly.
  x, y = rng.integers(-99, 99, (2, 2, t, c)).astype(np.float32)
  moved, x, y = (
    shift(z, offsets, width, border=border) for z in (a * x + b * y, x, y)
  )
  np.testing.assert_array_equal(moved, a * x + b * y)


@settings(deadline=None, max_examples=25)
@given(case=cases, border=borders, seed=seeds)
def test_reversed_time_negates_the_offsets(case, border, seed):
  t, c, offsets, width = case
  x = oracles.normal(2, t, c, seed=seed)
  opposite = tuple(-o for o in offsets)
  np.testing.assert_array_equal(
    shift(x[:, ::-1], offsets, width, border=border),
    shift(x, opposite, width, border=border)[:, ::-1],
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
def test_gradient_with_kept_borders_is_the_transpose(t, c, offsets, width):
  # Integers: every sum is exact.
  rng = np.random.default_rng(0)
  x, ct = rng.integers(-9, 9, (2, 2, t, c)).astype(np.float32)
  want = np.zeros_like(ct)
  for place in np.ndindex(t, c):
    unit = np.zeros((1, t, c), np.float32)
    unit[0, *place] = 1
    moved = naive_shift(unit, offsets, width, "keep")
    want[:, *place] = (ct * moved).sum(axis=(1, 2))

  @oracles.jit
  def gradient(x, ct):
    function = functools.partial(
      shift_channels, offsets=offsets, width=width, border="keep"
    )
    return jax.vjp(function, x)[1](ct)[0]

  np.testing.assert_array_equal(gradient(x, ct), want)


@pytest.mark.parametrize(("t", "c", "offsets", "width"), CASES)
def test_videos_do_not_leak(t, c, offsets, width):
  x = oracles.normal(2, t, c)
  for changed, other in ((0, 1), (1, 0)):
    y = x.copy()
    y[changed] = np.inf
    np.testing.assert_array_equal(
      shift(y, offsets, width)[other], shift(x, offsets, width)[other]
    )
