import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.patch_shift import mosaic, source_frames
from vidjax.ops.position_bias import (
  Places,
  linear_matrix,
  relative_bias,
  resize_bias_table,
)

HEADS = 2


def make_table(frames, rows, columns, seed=0):
  shape = (2 * frames - 1, 2 * rows - 1, 2 * columns - 1, HEADS)
  return oracles.normal(*shape, seed=seed)


def make_places(frame, rows, columns):
  _, row, column = np.indices((1, rows, columns)).reshape(3, -1)
  return Places(frame, row, column)


def naive_bias(table, queries, keys):
  """B[t, g, q, k] = table[difference of each coordinate], one by one."""
  table = oracles.array(table)
  middle = [(n - 1) // 2 for n in table.shape[:3]]
  frames, tokens = queries.frame.shape
  result = np.zeros((frames, HEADS, tokens, tokens))
  for t in range(frames):
    key_frames = keys.frame[t if len(keys.frame) > 1 else 0]
    for q in range(tokens):
      for k in range(tokens):
        dt = queries.frame[t, q] - key_frames[k] if len(table) > 1 else 0
        dy = queries.row[q] - keys.row[k]
        dx = queries.column[q] - keys.column[k]
        result[t, :, q, k] = table[
          middle[0] + dt, middle[1] + dy, middle[2] + dx
        ]
  return result


def own_frames(frames, tokens):
  return np.repeat(np.arange(frames)[:, None], tokens, axis=1)


def test_plain_tokens_with_the_key_in_the_first_frame():
  """Frame t has slice t of the table for its own: it knows absolute time."""
  table = make_table(5, 2, 3)
  places = make_places(own_frames(5, 6), 2, 3)
  first = places._replace(frame=places.frame[:1])
  bias = relative_bias(jnp.asarray(table), places, first)
  np.testing.assert_array_equal(bias, naive_bias(table, places, first))
  for t in range(5):
    only = np.zeros_like(table)
    only[4 + t] = table[4 + t]  # the slices of the past are never read
    flat = relative_bias(jnp.asarray(only), places, first)
    np.testing.assert_array_equal(flat[t], bias[t])


def test_plain_tokens_in_the_same_frame_share_one_bias():
  table = make_table(5, 2, 3)
  places = make_places(own_frames(5, 6), 2, 3)
  bias = relative_bias(jnp.asarray(table), places, places)
  assert bias.shape == (1, HEADS, 6, 6)
  want = naive_bias(table, places, places)
  np.testing.assert_array_equal(np.broadcast_to(bias, want.shape), want)
  # No difference of frames: the middle slice, as in an image.
  image = relative_bias(jnp.asarray(table[4:5]), places, places)
  np.testing.assert_array_equal(bias, image)


@pytest.mark.parametrize("frames", [1, 3, 5, 11])
@pytest.mark.parametrize("key_frame", ["first", "same"])
def test_shifted_tokens(frames, key_frame):
  table = make_table(frames, 3, 4)
  sources = source_frames(frames, mosaic("c9", 3, 4))
  queries = make_places(sources, 3, 4)
  keys = queries
  if key_frame == "first":
    keys = queries._replace(frame=sources[:1])
  bias = relative_bias(jnp.asarray(table), queries, keys)
  want = naive_bias(table, queries, keys)
  np.testing.assert_array_equal(np.broadcast_to(bias, want.shape), want)
  assert len(bias) == frames  # none shares another's


def test_first_and_same_agree_in_the_first_frame_only():
  table = jnp.asarray(make_table(5, 3, 3))
  places = make_places(source_frames(5, mosaic("c9", 3, 3)), 3, 3)
  first = places._replace(frame=places.frame[:1])
  quirk, true = (relative_bias(table, places, k) for k in (first, places))
  np.testing.assert_array_equal(quirk[0], true[0])
  assert (np.asarray(quirk != true)[1:]).any(axis=(1, 2, 3)).all()


def test_joint_windows():
  table = make_table(2, 3, 2)
  frame, row, column = np.indices((2, 3, 2)).reshape(3, -1)
  places = Places(frame[None], row, column)
  bias = relative_bias(jnp.asarray(table), places, places)
  assert bias.shape == (1, HEADS, 12, 12)
  np.testing.assert_array_equal(bias, naive_bias(table, places, places))


@pytest.mark.parametrize("key_frame", ["first", "same"])
def test_a_table_of_one_frame_knows_no_time(key_frame):
  table = make_table(1, 3, 3)
  places = make_places(source_frames(7, mosaic("c9", 3, 3)), 3, 3)
  keys = places
  if key_frame == "first":
    keys = places._replace(frame=places.frame[:1])
  bias = relative_bias(jnp.asarray(table), places, keys)
  still = make_places(np.zeros((1, 9), int), 3, 3)
  np.testing.assert_array_equal(bias, naive_bias(table, still, still))


def test_gradient_counts_each_use():
  table = jnp.asarray(make_table(3, 2, 2))
  places = make_places(own_frames(3, 4), 2, 2)
  first = places._replace(frame=places.frame[:1])
  counts = oracles.jit(
    jax.grad(lambda table: relative_bias(table, places, first).sum())
  )(table)
  want = np.zeros(table.shape)
  for t in range(3):
    for q in range(4):
      for k in range(4):
        dy, dx = q // 2 - k // 2, q % 2 - k % 2
        want[2 + t, 1 + dy, 1 + dx] += 1
  np.testing.assert_array_equal(counts, want)


def test_resize_to_the_same_window_is_the_identity():
  table = jnp.asarray(make_table(4, 3, 5))
  np.testing.assert_array_equal(resize_bias_table(table, (4, 3, 5)), table)


@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (4, 7), (12, 3)])
def test_rows_and_columns_are_resized_bicubically(rows, columns):
  table = make_table(2, 5, 7)
  size = (2 * rows - 1, 2 * columns - 1)
  scale = (size[0] / 9, size[1] / 13)
  want = [oracles.bicubic(old, size, scale) for old in table]
  np.testing.assert_allclose(
    resize_bias_table(jnp.asarray(table), (2, rows, columns)), want, atol=2e-5
  )


def test_official_bicubic(shared):
  with np.load(shared / "golden/tps/inflate.npz") as file:
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    old, new = file[f"w12/in/{name}"], file[f"w12/out/{name}"]
  table = jnp.asarray(old.reshape(1, 23, 23, 2))
  resized = resize_bias_table(table, (16, 7, 7))
  np.testing.assert_allclose(
    np.reshape(resized, (-1, 2)), new, atol=5e-6, rtol=0
  )


@pytest.mark.parametrize("frames", [2, 3, 8, 11, 31])
def test_frames_are_resized_linearly_with_both_ends_kept(frames):
  table = make_table(8, 2, 2)
  resized = np.asarray(resize_bias_table(jnp.asarray(table), (frames, 2, 2)))
  assert resized.shape == (2 * frames - 1, 3, 3, HEADS)
  # The largest differences and "the same frame" are what they were.
  for new, old in ((0, 0), (frames - 1, 7), (-1, -1)):
    np.testing.assert_allclose(resized[new], table[old], atol=1e-6)
  for i in range(2 * frames - 1):
    place = i * 14 / (2 * frames - 2)
    low = min(int(place), 13)
    part = place - low
    want = (1 - part) * table[low] + part * table[low + 1]
    np.testing.assert_allclose(resized[i], want, atol=1e-5)


def test_an_image_table_is_repeated():
  table = make_table(1, 2, 2)
  resized = resize_bias_table(jnp.asarray(table), (3, 2, 2))
  np.testing.assert_array_equal(resized, np.repeat(table, 5, axis=0))


def test_one_frame_takes_the_middle():
  table = make_table(4, 2, 2)
  np.testing.assert_array_equal(
    resize_bias_table(jnp.asarray(table), (1, 2, 2)), table[3:4]
  )


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 20), new_size=st.integers(1, 20))
def test_linear_matrix(size, new_size):
  matrix = linear_matrix(size, new_size)
  np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
  ramp = np.linspace(-1, 1, size) if size > 1 else np.zeros(1)
  want = np.linspace(-1, 1, new_size) if min(size, new_size) > 1 else 0
  np.testing.assert_allclose(matrix @ ramp, want, atol=1e-5)
  np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-6)
