import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn.functional import split
from vidjax.nn.init import torch_init
from vidjax.nn.interframe import (
  OFFSETS,
  InterFrame,
  InterFrameAttention,
  OffsetPrediction,
  three_frames,
)
from vidjax.nn.temporal import BlockShape, Grid
from vidjax.ops.interframe import interframe_attention

B, T, H, W, C = 2, 3, 4, 5, 8
GRID = Grid(1, H, W)
EVAL = {"train": False, "rngs": None}


def shape(place=0, stage=0):
  return BlockShape(C, 2, 1e-5, torch_init, stage, place)


def maps(seed=0):
  return oracles.normal(B, T, H, W, C, seed=seed)


def tokens(seed=0):
  return oracles.normal(B, T, 1 + H * W, C, seed=seed)


def plug(place=0, stage=0, **options):
  return oracles.build(InterFrame, shape(place, stage), **options)


def after(module, x, grid=GRID):
  y = oracles.jit(lambda x: module.after(x, grid, **EVAL))(x)
  return np.asarray(y)


def received(module, x):
  """Y of the patches of tokens."""
  patches = jnp.asarray(x[:, :, 1:].reshape(B, T, H, W, C))
  return np.asarray(oracles.call(module, patches)).reshape(B, T, H * W, C)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


SALIENCY = {
  "rescaled": lambda now, later: (1 + sigmoid(later - now)) * later,
  "saliency": lambda now, later: sigmoid(later - now) * later,
  "next": lambda now, later: later,
  "difference": lambda now, later: later - now,
}


@pytest.mark.parametrize("source", [*SALIENCY, "conv3d"])
def test_offsets_are_a_convolution(source):
  n = 4
  layer = oracles.build(OffsetPrediction, C, n, source=source, init="kaiming")
  x = maps()
  y = oracles.call(layer, x)
  assert y.shape == (B, T - 1, H, W, n, 2)
  x = oracles.array(x)
  if source == "conv3d":
    padded = np.pad(x, [(0, 0), (0, 1), *[(0, 0)] * 3])
    given = np.concatenate([x[:, :-1], x[:, 1:], padded[:, 2:]], axis=-1)
  else:
    given = SALIENCY[source](x[:, :-1], x[:, 1:])
  given = np.pad(given, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
  kernel = oracles.array(layer.conv.kernel)
  wanted = np.zeros((B, T - 1, H, W, 2 * n))
  for row, column in np.ndindex(H, W):
    window = given[:, :, row : row + 3, column : column + 3]
    wanted[:, :, row, column] = np.einsum("btpqi,pqio->bto", window, kernel)
  for neighbour in range(n):  # rows and columns take turns
    for axis in (0, 1):
      np.testing.assert_allclose(
        y[..., neighbour, axis], wanted[..., 2 * neighbour + axis], atol=1e-4
      )


def test_initial_offsets():
  make = {"source": "next", "rngs": nnx.Rngs(0), "dtype": jnp.float32}
  zero = OffsetPrediction(64, 9, init="zero", **make).conv.kernel[...]
  kaiming = OffsetPrediction(64, 9, init="kaiming", **make).conv.kernel[...]
  assert not np.asarray(zero).any()
  np.testing.assert_allclose(np.std(kaiming), np.sqrt(2 / (18 * 9)), rtol=0.05)


def test_three_frames():
  x = maps()
  y = np.asarray(three_frames(jnp.asarray(x)))
  np.testing.assert_array_equal(y[:, 1], np.concatenate(list_of(x), axis=-1))
  assert not y[:, 0, ..., :C].any()
  assert not y[:, -1, ..., 2 * C :].any()


def list_of(x):
  return [x[:, t] for t in range(3)]


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("projections", [False, True])
def test_layer_is_the_operation(offsets, projections):
  layer = oracles.build(
    InterFrameAttention,
    C,
    kernel=2,
    dilation=2,
    offsets=offsets,
    score="softmax",
    projections=projections,
  )
  x = jnp.asarray(maps())
  q, k, v = x, x, x
  if projections:
    q, k, v = (
      jnp.asarray(oracles.linear(each, x), jnp.float32)
      for each in layer.projections
    )
  given = None if offsets == "none" else oracles.call(layer.offset, x)
  wanted = oracles.jit(
    lambda q, k, v, given: interframe_attention(
      q, k, v, given, kernel=2, dilation=2, score="softmax"
    )
  )(q, k, v, given)
  np.testing.assert_allclose(oracles.call(layer, x), wanted, atol=1e-4)


def test_official_block_on_large_maps():
  """Even blocks attend through a norm, odd ones convolve over time."""
  x = tokens()
  even, odd = (plug(place, window=3) for place in (0, 1))
  y = received(even.attention, x)
  wanted = np.array(x, np.float64)
  wanted[:, :, 1:] += oracles.layer_norm(even.norm, y, 1e-5)
  np.testing.assert_allclose(after(even, x), wanted, atol=1e-5)

  kernel = oracles.array(odd.conv.kernel).reshape(3, C, C)
  wanted = np.array(x, np.float64)
  for t in range(T):
    for tap, source in enumerate((t - 1, t, t + 1)):
      if 0 <= source < T:
        wanted[:, t, 1:] += x[:, source, 1:] @ kernel[tap]
  np.testing.assert_allclose(after(odd, x), wanted, atol=1e-5)


@pytest.mark.parametrize("window", [4, 5, 7])
def test_all_blocks_attend_where_one_window_fills_the_map(window):
  odd = plug(1, window=window)
  x = tokens()
  y = oracles.layer_norm(odd.norm, received(odd.attention, x), 1e-5)
  np.testing.assert_allclose(
    after(odd, x)[:, :, 1:], x[:, :, 1:] + y, atol=1e-5
  )


def test_last_frame_receives_the_bias_of_the_norm():
  even = plug()
  x = tokens()
  change = after(even, x)[:, -1, 1:] - x[:, -1, 1:]
  np.testing.assert_allclose(
    change, np.broadcast_to(oracles.array(even.norm.bias), change.shape), 1e-4
  )


@pytest.mark.parametrize(
  ("places", "attends"),
  [("all", (True, True)), ("even", (True, False)), ("odd", (False, True))],
)
def test_places(places, attends):
  x = tokens()
  for place, wanted in enumerate(attends):
    block = plug(
      place, places=places, window=0, convolve=False, norm=False, offsets="next"
    )
    assert bool(jax.tree.leaves(split(block)[1])) == wanted
    y = after(block, x)
    np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])
    if not wanted:
      np.testing.assert_array_equal(y, x)
      continue
    added = received(block.attention, x)
    np.testing.assert_allclose(y[:, :, 1:], x[:, :, 1:] + added, atol=1e-5)


def test_the_papers_placement():
  """On the branch of even blocks; the residual stream is left alone."""
  options = {"placement": "branch", "norm": False, "convolve": False}
  even, odd = (plug(place, window=3, **options) for place in (0, 1))
  x = tokens()
  for block in (even, odd):
    np.testing.assert_array_equal(after(block, x), x)
  branch = oracles.jit(lambda y: even.branch(y, GRID))(x)
  added = received(even.attention, x)
  np.testing.assert_allclose(branch[:, :, 1:], x[:, :, 1:] + added, atol=1e-5)
  np.testing.assert_array_equal(branch[:, :, 0], x[:, :, 0])
  for block in (odd, plug(window=3)):
    np.testing.assert_array_equal(block.branch(jnp.asarray(x), GRID), x)


def test_starts_as_nothing():
  block = oracles.initial(InterFrame, shape())
  x = tokens()
  np.testing.assert_array_equal(after(block, x), x)


def test_kernel_of_each_stage():
  kernels = [
    plug(stage=stage, kernel=(1, 3, 5)).attention.kernel for stage in range(3)
  ]
  assert kernels == [1, 3, 5]
  with pytest.raises(
    ValueError, match=r"kernel is \(1, 3\), but there is a st"
  ):
    plug(stage=2, kernel=(1, 3))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"places": "some"}, "places is 'some'; use one of 'all', 'even', 'odd'"),
    ({"placement": "before"}, "placement is 'before'; use one of 'after'"),
    ({"offsets": "some"}, "offsets is 'some'; use one of 'none', 'rescaled'"),
    ({"offset_init": "one"}, "offset_init is 'one'; use one of 'kaiming'"),
    ({"score": "dot"}, "score is 'dot'"),
    ({"kernel": 0}, "kernel is 0; use 1 or more"),
    ({"dilation": 0}, "dilation is 0"),
    ({"window": -1}, "window is -1; use 0 or more"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    plug(**options)
