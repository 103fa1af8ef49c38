import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.patch_shift import (
  PATTERNS,
  check_pattern,
  mosaic,
  shift_patches,
  source_frames,
)

# The offsets of a 7 x 7 window in the released code.
WINDOW = """
  -4  1  2 -4  1  2 -4
  -1  0  3 -1  0  3 -1
  -2 -3  4 -2 -3  4 -2
  -4  1  2 -4  1  2 -4
  -1  0  3 -1  0  3 -1
  -2 -3  4 -2 -3  4 -2
  -4  1  2 -4  1  2 -4
"""


def naive_shift(x, offsets):
  """out[b, t, n] = in[b, (t - s(n)) mod T, n], token by token."""
  y = np.empty_like(x)
  frames = x.shape[1]
  for t in range(frames):
    for n, offset in enumerate(offsets):
      y[:, t, n] = x[:, (t - offset) % frames, n]
  return y


def shift(x, offsets):
  return np.asarray(shift_patches(jnp.asarray(x), np.asarray(offsets, int)))


@pytest.mark.parametrize(
  ("name", "frames"),
  [("a3", 3), ("b4", 4), ("c9", 9), ("d16", 16), ("even_2", 2)],
)
def test_patterns_take_each_frame_equally_often(name, frames):
  offsets = np.array(PATTERNS[name]).ravel()
  _, counts = np.unique(offsets, return_counts=True)
  assert len(counts) == frames
  # Only A-3 has its own frame twice.
  assert sorted(counts) == ([1, 1, 2] if name == "a3" else [counts[0]] * frames)


def test_centre_one_moves_the_centre():
  (moved,) = np.argwhere(PATTERNS["centre_one"])
  assert moved.tolist() == [1, 1]
  assert PATTERNS["centre_one"][1][1] == 1


def test_official_mosaic():
  np.testing.assert_array_equal(
    mosaic("c9", 7, 7), np.array(WINDOW.split(), int)
  )


@pytest.mark.parametrize("pattern", [*PATTERNS, ((1, 2, 3),), ((5,), (-5,))])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (1, 5), (4, 3), (2, 9)])
def test_mosaic_repeats_the_pattern(pattern, height, width):
  rows = PATTERNS.get(pattern, pattern)
  offsets = mosaic(pattern, height, width)
  assert offsets.shape == (height * width,)
  for y in range(height):
    for x in range(width):
      want = rows[y % len(rows)][x % len(rows[0])]
      assert offsets[y * width + x] == want


@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_the_loop(pattern):
  offsets = mosaic(pattern, 5, 4)
  clips = [
    # Short clips wrap, several times if the offset is long.
    oracles.normal(2, frames, 20, 3)
    for frames in (1, 2, 3, 4, 5, 8, 16)
  ]

  @oracles.jit
  def there_and_back(clips):
    shifted = [shift_patches(x, offsets) for x in clips]
    return shifted, [shift_patches(x, -offsets) for x in shifted]

  for x, y, back in zip(clips, *there_and_back(clips), strict=True):
    np.testing.assert_array_equal(y, naive_shift(x, offsets))
    np.testing.assert_array_equal(back, x)


def test_five_frames_by_hand():
  x = np.arange(5.0, dtype=np.float32).reshape(1, 5, 1, 1)  # its own frame
  x = np.tile(x, (1, 1, 4, 1))
  y = shift(x, [0, 1, -1, 7])
  # +1 brings a token from one frame ago; 7 is 2 in a clip of 5.
  assert y[0, :, :, 0].tolist() == [
    [0, 4, 1, 3],
    [1, 0, 2, 4],
    [2, 1, 3, 0],
    [3, 2, 4, 1],
    [4, 3, 0, 2],
  ]


def test_official_windows(shared):
  """Several clips and windows at once, whole heads moving together."""
  with np.load(shared / "golden/tps/ops.npz") as file:
    stored = file["patch_shift/multi/out"]
    clips, frames, windows, heads, tokens, width = file[
      "patch_shift/multi/in_shape"
    ]
  x = np.arange(stored.size, dtype=np.float32)
  x = x.reshape(clips, frames, windows, heads, tokens, width)
  merged = np.moveaxis(x, 1, 2).swapaxes(3, 4)
  shape = (clips * windows, frames, tokens, heads * width)
  y = shift(merged.reshape(shape), mosaic("c9", 7, 7))
  y = y.reshape(clips, windows, frames, tokens, heads, width)
  y = np.moveaxis(y.swapaxes(3, 4), 1, 2)
  np.testing.assert_array_equal(y.reshape(stored.shape), stored)


def test_source_frames():
  frames = source_frames(5, np.array([0, 1, -1, 7]))
  want = [[(t - s) % 5 for s in (0, 1, -1, 7)] for t in range(5)]
  np.testing.assert_array_equal(frames, want)


tables = st.lists(st.integers(-20, 20), min_size=1, max_size=9)
clips = st.integers(1, 9)


@settings(deadline=None, max_examples=15)
@given(offsets=tables, frames=clips)
def test_a_permutation_that_the_opposite_undoes(offsets, frames):
  x = np.arange(2.0 * frames * len(offsets), dtype=np.float32)
  x = x.reshape(2, frames, len(offsets), 1)
  y = shift(x, offsets)
  for before, after in zip(x, y, strict=True):  # clips do not mix
    np.testing.assert_array_equal(np.sort(after, None), before.ravel())
  np.testing.assert_array_equal(shift(y, -np.array(offsets)), x)


@settings(deadline=None, max_examples=10)
@given(offsets=tables, frames=clips, data=st.data())
def test_two_shifts_are_the_shift_of_the_sum(offsets, frames, data):
  size = len(offsets)
  others = data.draw(st.lists(st.integers(-20, 20), min_size=size))[:size]
  x = oracles.normal(1, frames, size, 2)
  np.testing.assert_array_equal(
    shift(shift(x, offsets), others), shift(x, np.add(offsets, others))
  )


@settings(deadline=None, max_examples=10)
@given(offsets=tables, frames=clips, start=st.integers(-9, 9))
def test_time_is_a_circle(offsets, frames, start):
  x = oracles.normal(1, frames, len(offsets), 2)
  np.testing.assert_array_equal(
    shift(np.roll(x, start, axis=1), offsets),
    np.roll(shift(x, offsets), start, axis=1),
  )


@settings(deadline=None, max_examples=10)
@given(offsets=tables, frames=clips, step=st.integers(1, 9))
def test_offsets_of_whole_clips_are_none(offsets, frames, step):
  x = oracles.normal(1, frames, len(offsets), 2)
  np.testing.assert_array_equal(shift(x, np.array(offsets) * frames * step), x)


def test_even_offsets_keep_even_and_odd_frames_apart():
  offsets = 2 * mosaic("c9", 3, 3)
  x = oracles.normal(1, 8, 9, 2)
  changed = x.copy()
  changed[:, ::2] += 1
  differs = (shift(x, offsets) != shift(changed, offsets)).any(axis=(2, 3))[0]
  assert differs.tolist() == [True, False] * 4


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_gradient_is_the_inverse_shift(frames):
  offsets = mosaic("c9", 4, 5)
  x, ct = oracles.normal(2, 2, frames, 20, 3)

  @oracles.jit
  def gradient(x, ct):
    return jax.vjp(lambda x: shift_patches(x, offsets), x)[1](ct)[0]

  np.testing.assert_array_equal(gradient(x, ct), naive_shift(ct, -offsets))


def test_both_directions_are_gathers():
  """A scatter costs several times a gather; the gradient must not be one."""
  offsets = mosaic("c9", 7, 7)

  def forward(x):
    return shift_patches(x, offsets)

  def gradient(x):
    return jax.grad(lambda x: (shift_patches(x, offsets) ** 2).sum())(x)

  x = jnp.zeros((2, 8, 49, 4))
  for function, gathers in ((forward, 1), (gradient, 2)):
    lowered = jax.jit(function).lower(x)
    for text in (lowered.as_text(), lowered.compile().as_text()):
      assert "scatter" not in text
    # Of whole tokens, at places that are known: nothing is clamped or filled.
    assert lowered.as_text().count('"stablehlo.gather"(') == gathers


def test_batched_by_vmap():
  offsets = mosaic("a3", 2, 3)
  x = oracles.normal(3, 2, 4, 6, 2)
  y = oracles.jit(jax.vmap(lambda x: shift_patches(x, offsets)))(x)
  for clip, shifted in zip(x, y, strict=True):
    np.testing.assert_array_equal(shifted, naive_shift(clip, offsets))


def test_low_precision_moves_bits():
  offsets = mosaic("c9", 3, 3)
  x = oracles.normal(1, 4, 9, 8).astype(jnp.bfloat16)
  y = shift(x, offsets)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, naive_shift(x, offsets))


@pytest.mark.parametrize("rows", [((0, 1), (-1, 0)), [[0, 1, 2]], [(1,), (2,)]])
def test_given_patterns(rows):
  assert check_pattern(rows) == tuple(map(tuple, rows))


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("c8", "pattern is 'c8'; use one of 'a3', 'b4', 'c9', 'd16'"),
    (((0, 1), (2,)), r"pattern \(\(0, 1\), \(2,\)\) is not a rectangle; give"),
    ((), r"pattern \(\) is not a rectangle"),
    (((),), r"pattern \(\(\),\) is not a rectangle"),
    (((), ()), "is not a rectangle"),
    (((0, 1), (0, 1)), r"repeats \(\(0, 1\),\); give that one"),
    (((0, 0, 0),), r"repeats \(\(0,\),\)"),
    (((1, 2, 1, 2), (3, 4, 3, 4)), r"repeats \(\(1, 2\), \(3, 4\)\)"),
  ],
)
def test_pattern_errors(pattern, message):
  for use in (check_pattern, lambda pattern: mosaic(pattern, 7, 7)):
    with pytest.raises(ValueError, match=message) as error:
      use(pattern)
    assert "\n" not in str(error.value)
