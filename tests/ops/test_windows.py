import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.windows import (
  cut_windows,
  fit_window,
  join_windows,
  padded_size,
  window_mask,
)


def naive_cut(x, window):
  """One token at a time: by clip and place, then time, then (s p q)."""
  b, frames, height, width, c = x.shape
  s, p, q = window
  places = [
    (clip, y, column)
    for clip in range(b)
    for y in range(height // p)
    for column in range(width // q)
  ]
  result = np.zeros((len(places), frames // s, s * p * q, c), x.dtype)
  for place, (clip, y, column) in enumerate(places):
    for t in range(frames // s):
      for n, (i, j, k) in enumerate(np.ndindex(*window)):
        result[place, t, n] = x[clip, t * s + i, y * p + j, column * q + k]
  return result


SIZES = [
  ((4, 6, 6), (1, 3, 3)),
  ((3, 4, 9), (1, 2, 3)),
  ((4, 3, 6), (2, 3, 2)),
  ((2, 5, 1), (2, 5, 1)),
]


@pytest.mark.parametrize(("size", "window"), SIZES)
def test_order_of_windows_and_tokens(size, window):
  x = oracles.normal(2, *size, 3)
  cut = cut_windows(jnp.asarray(x), window)
  np.testing.assert_array_equal(cut, naive_cut(x, window))
  np.testing.assert_array_equal(join_windows(cut, window, size), x)


@settings(deadline=None, max_examples=8)
@given(
  size=st.tuples(*[st.integers(1, 8)] * 3),
  window=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_round_trip_of_padded_maps(size, window):
  whole = padded_size(size, window)
  for n, m, w in zip(size, whole, window, strict=True):
    assert m % w == 0
    assert n <= m < n + w
  x = np.zeros((2, *whole, 2), np.float32)
  t, h, w = size
  x[:, :t, :h, :w] = oracles.normal(2, *size, 2)
  cut = cut_windows(jnp.asarray(x), window)
  np.testing.assert_array_equal(join_windows(cut, window, whole), x)


@pytest.mark.parametrize(
  ("size", "shift", "fitted", "shifts"),
  [
    ((16, 14, 21), (0, 3, 3), (1, 7, 7), (0, 3, 3)),
    ((16, 7, 21), (0, 3, 3), (1, 7, 7), (0, 0, 3)),  # one window fills a row
    ((16, 7, 7), (0, 3, 3), (1, 7, 7), (0, 0, 0)),
    ((16, 8, 7), (0, 3, 3), (1, 7, 7), (0, 3, 0)),
    ((16, 14, 14), (0, 0, 0), (1, 7, 7), (0, 0, 0)),
  ],
)
def test_windows_of_one_frame(size, shift, fitted, shifts):
  assert fit_window(size, (1, 7, 7), shift) == (fitted, shifts)


@pytest.mark.parametrize(
  ("frames", "fitted", "shifted"),
  [(16, 8, 4), (9, 8, 4), (8, 8, 0), (5, 5, 0), (1, 1, 0)],
)
def test_windows_of_several_frames(frames, fitted, shifted):
  window, shift = fit_window((frames, 14, 7), (8, 7, 7), (4, 3, 3))
  assert window == (fitted, 7, 7)
  assert shift == (shifted, 3, 0)


@pytest.mark.parametrize("size", [(4, 6, 7), (4, 7, 6), (4, 2, 2)])
def test_a_map_smaller_than_the_window(size):
  message = (
    f"a map of {size[1]} x {size[2]} tokens is smaller than the window of "
    "7 x 7; use larger frames, fewer stages or a smaller window"
  )
  with pytest.raises(ValueError, match=f"^{message}$"):
    fit_window(size, (1, 7, 7), (0, 3, 3))


def naive_mask(size, window, shift):
  """-100 between tokens that the roll brought together.

  A rolled token at i was at i + d; those past the end came round the seam.
  """
  windows = [n // w for n, w in zip(size, window, strict=True)]
  tokens = list(np.ndindex(*window))
  mask = np.zeros((windows[1] * windows[2], windows[0], *[len(tokens)] * 2))
  for t, y, x in np.ndindex(*windows):
    for (i, a), (j, b) in itertools.product(enumerate(tokens), repeat=2):
      for place, w, n, d, own, other in zip(
        (t, y, x), window, size, shift, a, b, strict=True
      ):
        rolled = [place * w + inside + d >= n for inside in (own, other)]
        if rolled[0] != rolled[1]:
          mask[y * windows[2] + x, t, i, j] = -100
  return mask


MASKS = [
  ((1, 6, 9), (1, 3, 3), (0, 1, 1)),
  ((1, 6, 9), (1, 3, 3), (0, 0, 1)),
  ((1, 8, 4), (1, 4, 4), (0, 2, 0)),
  ((1, 6, 3), (1, 3, 3), (0, 2, 0)),  # any shift, not only half a window
  ((4, 6, 4), (2, 3, 2), (1, 1, 1)),
  ((6, 3, 4), (3, 3, 2), (1, 0, 1)),
  ((4, 2, 2), (2, 2, 2), (1, 0, 0)),
]


@pytest.mark.parametrize(("size", "window", "shift"), MASKS)
def test_mask_equals_the_loop(size, window, shift):
  mask = window_mask(size, window, shift)
  assert mask.dtype == np.float32
  want = naive_mask(size, window, shift)
  assert (want != 0).any()
  np.testing.assert_array_equal(mask, want)


def test_mask_without_shift_lets_everyone_see():
  assert not window_mask((2, 6, 6), (2, 3, 3), (0, 0, 0)).any()


@pytest.mark.parametrize("frames", [1, 5, 16])
def test_one_mask_serves_all_frames_unless_they_shift(frames):
  mask = window_mask((frames, 6, 6), (1, 3, 3), (0, 1, 1))
  assert mask.shape == (4, 1, 9, 9)
  np.testing.assert_array_equal(
    mask, window_mask((1, 6, 6), (1, 3, 3), (0, 1, 1))
  )
  joint = window_mask((2 * frames, 6, 6), (2, 3, 3), (0, 1, 1))
  assert joint.shape == (4, 1, 18, 18)


def test_only_the_last_windows_are_cut():
  mask = window_mask((1, 9, 9), (1, 3, 3), (0, 1, 1)).reshape(3, 3, 9, 9)
  assert not mask[:2, :2].any()
  assert mask[2].any(axis=(1, 2)).all()
  assert mask[:, 2].any(axis=(1, 2)).all()
  # The corner holds four parts, of 4, 2, 2 and 1 tokens.
  np.testing.assert_array_equal(
    (mask[2, 2] == 0).sum(axis=-1), [4, 4, 2, 4, 4, 2, 2, 2, 1]
  )
