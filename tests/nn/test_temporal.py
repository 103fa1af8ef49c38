"""The five places of the plug protocol, with plugs that only tests have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from tests import oracles
from vidjax.nn.attention import Attention, Block
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.layers import dropout
from vidjax.nn.temporal import BlockShape, Grid, Temporal

B, T, C, HEADS = 2, 6, 24, 3
EPS = 1e-6
SHAPE = BlockShape(C, HEADS, norm_eps=EPS, init=torch_init)
GRID = Grid(0, 3, 3)
N = 9
EVAL = {"train": False, "rngs": None}


def tokens(seed=0):
  return oracles.normal(B, T, N, C, seed=seed)


def build_block(plug):
  return oracles.build(Block, SHAPE, plug)


class Everywhere(Temporal):
  """A change of its own at every place."""

  def before(self, x, grid, *, train, rngs):
    assert grid == GRID
    return 2 * x

  def tokens(self, x, grid):
    assert grid == GRID
    return x[..., ::-1]

  def qkv(self, q, k, v, grid):
    assert grid == GRID
    k, v = (jnp.concatenate([x, 0.5 * x[:, :, :2]], axis=2) for x in (k, v))
    return 1.5 * q, k, v + 3

  def output(self, y, grid, frames):
    assert (grid, frames) == (GRID, T)
    return y**2

  def after(self, x, grid, *, train, rngs):
    assert grid == GRID
    return x - 0.7


def test_places_of_the_five_hooks():
  block = build_block(Everywhere())
  x = tokens()
  before = 2 * oracles.array(x)
  normed = oracles.layer_norm(block.norm1, before, EPS)[..., ::-1]
  q, k, v = oracles.project(block.attention, normed)
  k, v = (np.concatenate([z, 0.5 * z[:, :, :2]], axis=2) for z in (k, v))
  y = oracles.attend_frames(1.5 * q, k, v + 3, HEADS) ** 2
  want = before + oracles.linear(block.attention.proj, y) - 0.7
  normed = oracles.layer_norm(block.norm2, want, EPS)
  want += oracles.mlp(block.mlp, normed)
  got = oracles.call(block, x, GRID, **EVAL)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_plain_plug_does_nothing():
  plug = Temporal()
  x, k, v = (jnp.asarray(tokens(seed)) for seed in range(3))
  assert plug.before(x, GRID, **EVAL) is x
  assert plug.tokens(x, GRID) is x
  assert plug.qkv(x, k, v, GRID) == (x, k, v)
  assert plug.output(x, GRID, T) is x
  assert plug.after(x, GRID, **EVAL) is x


MOSAIC = np.array([[-4, 1, 2], [-1, 0, 3], [-2, -3, 4]]).ravel()


class PatchShift(Temporal):
  """TPS: token n of frame t comes from frame t - s(n), cyclic, and returns."""

  def _roll(self, x, sign):
    return jnp.stack(
      [jnp.roll(x[:, :, n], sign * s, axis=1) for n, s in enumerate(MOSAIC)],
      axis=2,
    )

  def tokens(self, x, grid):
    return self._roll(x, 1)

  def output(self, y, grid, frames):
    return self._roll(y, -1)


class PatchShiftOneWay(PatchShift):
  output = Temporal.output


def identity_attention():
  """Attention that returns its tokens.

  Their first n channels name the token, loud enough that the softmax picks
  the token itself; values and output are copies.
  """
  module = oracles.build(Attention, C, 1, init=torch_init)
  names = np.zeros((C, C), np.float32)
  names[:N, :N] = 200 * np.eye(N)
  copy = np.eye(C, dtype=np.float32)
  module.qkv.kernel[...] = jnp.asarray(np.concatenate([names, names, copy], 1))
  module.qkv.bias[...] = jnp.zeros(3 * C)
  module.proj.kernel[...] = jnp.asarray(copy)
  module.proj.bias[...] = jnp.zeros(C)
  return module


def test_a_shift_around_identity_attention_is_the_identity():
  x = tokens()
  x[..., :N] = np.eye(N)
  module = identity_attention()
  for plug, same in ((PatchShift(), True), (PatchShiftOneWay(), False)):
    y = oracles.call(module, x, plug, GRID, **EVAL)
    assert np.array_equal(y, x) == same


def test_patch_shift_attends_within_mixed_frames():
  module = oracles.build(Attention, C, HEADS, init=torch_init)
  x = tokens()
  q, k, v = oracles.project(module, x)
  y = np.zeros(x.shape)
  for b in range(B):
    for t in range(T):
      members = [((t - s) % T, n) for n, s in enumerate(MOSAIC)]
      rows = ([z[b, f, n] for f, n in members] for z in (q, k, v))
      attended = oracles.attend(*rows, heads=HEADS)
      for (frame, n), row in zip(members, attended, strict=True):
        y[b, frame, n] = row
  np.testing.assert_allclose(
    oracles.call(module, x, PatchShift(), GRID, **EVAL),
    oracles.linear(module.proj, y),
    atol=1e-5,
  )


class Leap(Temporal):
  """LAPS: frames t and t + leap attend to each other's tokens."""

  def __init__(self, leap):
    self.leap = leap

  def qkv(self, q, k, v, grid):
    q, k, v = (
      rearrange(x, "b (m p s) n c -> b (m s) (p n) c", p=2, s=self.leap)
      for x in (q, k, v)
    )
    return q, k, v

  def output(self, y, grid, frames):
    return rearrange(
      y, "b (m s) (p n) c -> b (m p s) n c", p=2, s=self.leap, m=frames // 6
    )


def test_leap_pairs_equal_the_loop():
  module = oracles.build(Attention, C, HEADS, init=torch_init)
  x = tokens()
  q, k, v = oracles.project(module, x)
  y = np.zeros(x.shape)
  for b in range(B):
    for t in (0, 1, 2):
      pair = [t, t + 3]
      rows = (z[b, pair].reshape(2 * N, C) for z in (q, k, v))
      y[b, pair] = oracles.attend(*rows, heads=HEADS).reshape(2, N, C)
  np.testing.assert_allclose(
    oracles.call(module, x, Leap(3), GRID, **EVAL),
    oracles.linear(module.proj, y),
    atol=1e-5,
  )


class InterFrame(Temporal):
  """A SIFA-like step with weights: x += dropout(previous frame @ kernel)."""

  def __init__(self, rate=0.0):
    self.kernel = nnx.Param(jnp.zeros((C, C)))
    self.rate = rate

  def after(self, x, grid, *, train, rngs):
    previous = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    step = previous @ self.kernel[...]
    return x + dropout(step, self.rate, train=train, rngs=rngs)


def make_inter_frame(*, rate=0.0, dtype, rngs):
  return Block(SHAPE, InterFrame(rate), dtype=dtype, rngs=rngs)


def test_a_plug_with_weights_is_trained():
  block = oracles.build(make_inter_frame)
  definition, params, stats = split(block)
  x, ct = jnp.asarray(tokens()), tokens(1)

  @oracles.jit
  def run(kernel):
    """The gradient, and a plain difference along one direction."""

    def loss(kernel):
      changed = params | {"temporal": {"kernel": kernel}}
      y = merge(definition, changed, stats)(x, GRID, **EVAL)
      return (y * ct).mean()

    direction = oracles.normal(C, C, seed=2)
    step = 1e-2 * direction
    gradient = jax.grad(loss)(kernel)
    difference = (loss(kernel + step) - loss(kernel - step)) / 2e-2
    return (gradient * direction).sum(), difference

  assert set(params["temporal"]) == {"kernel"}
  slope, difference = map(float, run(params["temporal"]["kernel"]))
  assert abs(difference) > 0.02
  assert slope == pytest.approx(difference, rel=0.02)


def test_plugs_get_the_training_flag_and_the_keys():
  block = oracles.build(make_inter_frame, rate=0.5)
  x = jnp.asarray(tokens())

  @oracles.jit
  def run(x, key):
    evaluated = block(x, GRID, train=False, rngs=nnx.Rngs(dropout=key))
    trained = block(x, GRID, train=True, rngs=nnx.Rngs(dropout=key))
    return evaluated, trained

  evaluated, trained = run(x, jax.random.key(0))
  np.testing.assert_array_equal(evaluated[:, 0], trained[:, 0])  # nothing there
  assert (np.asarray(evaluated != trained)[:, 1:]).any(axis=(1, 2, 3)).all()
  with pytest.raises(ValueError, match=r"dropout of 0\.5 in training"):
    oracles.call(block, x, GRID, train=True, rngs=None)
