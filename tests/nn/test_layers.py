import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init, vit_init, zero_init
from vidjax.nn.layers import (
  LayerNorm,
  Mlp,
  PatchEmbed,
  dropout,
  gelu,
  linear,
)


def test_linear():
  layer = oracles.build(linear, 6, 4, init=vit_init(0.02))
  x = oracles.normal(2, 3, 6)
  want = [
    [
      [
        sum(row[i] * layer.kernel[...][i, o] for i in range(6))
        + layer.bias[...][o]
        for o in range(4)
      ]
      for row in rows
    ]
    for rows in x
  ]
  np.testing.assert_allclose(oracles.call(layer, x), want, atol=1e-6)
  assert (
    oracles.initial(linear, 6, 4, init=vit_init(0.02), bias=False).bias is None
  )


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)])
def test_gradient_of_linear(shape):
  layer = oracles.build(linear, 5, 3, init=vit_init(0.5))
  x, dy = oracles.normal(*shape), oracles.normal(*shape[:-1], 3, seed=1)
  definition, params, stats = split(layer)

  @oracles.jit
  def gradient(params, x, dy):
    def apply(params, x):
      return merge(definition, params, stats)(x)

    return jax.vjp(apply, params, x)[1](dy)

  dparams, dx = gradient(params, x, dy)
  want = np.zeros((5, 3))
  for place in np.ndindex(shape[:-1]):
    want += np.outer(x[place], dy[place])
  np.testing.assert_allclose(dparams["kernel"], want, atol=1e-5)
  np.testing.assert_allclose(dx, dy @ oracles.array(layer.kernel).T, atol=1e-5)


def test_gradient_of_linear_copies_nothing():
  layer = oracles.initial(linear, 24, 16, init=vit_init(0.02))
  definition, params, stats = split(layer)

  def loss(params, x):
    return (merge(definition, params, stats)(x) ** 2).sum()

  program = jax.jit(jax.grad(loss, argnums=(0, 1)))
  compiled = program.lower(params, oracles.normal(2, 3, 49, 24)).compile()
  assert not re.findall(r"= \S+ (?:transpose|copy)\(", compiled.as_text())


def test_initial_values():
  layer = oracles.initial(linear, 400, 300, init=vit_init(0.07))
  assert abs(np.std(layer.kernel[...]) - 0.07) < 7e-4
  np.testing.assert_array_equal(layer.bias[...], 0)

  layer = oracles.initial(linear, 400, 300, init=torch_init)
  for values in (layer.kernel[...], layer.bias[...]):
    assert 0.049 < np.abs(values).max() <= 0.05  # 1 / sqrt(400)
    assert abs(np.mean(values)) < 0.006

  layer = oracles.initial(linear, 4, 3, init=zero_init)
  np.testing.assert_array_equal(layer.kernel[...], 0)
  np.testing.assert_array_equal(layer.bias[...], 0)


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.5])
def test_layer_norm(eps):
  norm = oracles.build(LayerNorm, 10, eps=eps)
  x = 0.01 * oracles.normal(3, 10)  # small, so that eps matters
  got = oracles.call(norm, x)
  np.testing.assert_allclose(
    got, oracles.layer_norm(norm, x, eps), rtol=1e-5, atol=1e-6
  )


def test_layer_norm_far_from_zero():
  # The one-pass variance E[x^2] - E[x]^2 has no digit left here.
  norm = oracles.initial(LayerNorm, 64, eps=1e-6)
  x = oracles.normal(4, 64) + 4096
  got = oracles.call(norm, x)
  np.testing.assert_allclose(got, oracles.layer_norm(norm, x, 1e-6), atol=2e-3)


def test_layer_norm_of_bfloat16_has_float32_statistics():
  norm = oracles.initial(LayerNorm, 512, eps=1e-6, dtype=jnp.bfloat16)
  x = (oracles.normal(4, 512) + 20).astype(jnp.bfloat16)
  y = oracles.call(norm, x)
  assert y.dtype == jnp.bfloat16
  want = oracles.layer_norm(norm, x, 1e-6)
  np.testing.assert_allclose(oracles.array(y), want, atol=0.02)


def test_gelu_is_exact():
  x = np.linspace(-6, 6, 241, dtype=np.float32)
  want = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
  exact, approximate = oracles.jit(lambda x: (gelu(x), jax.nn.gelu(x)))(x)
  np.testing.assert_allclose(exact, want, atol=1e-6)
  assert np.abs(exact - approximate).max() > 1e-4


@pytest.mark.parametrize(
  ("size", "frames", "height", "width"),
  [
    ((1, 4, 4), 2, 8, 12),
    ((1, 4, 4), 2, 11, 7),
    ((1, 4, 4), 1, 4, 5),
    ((2, 4, 4), 4, 8, 4),
    ((2, 3, 2), 5, 7, 5),  # the last frame fills no patch
    ((4, 1, 3), 4, 2, 3),
  ],
)
def test_patch_embed_is_a_convolution(size, frames, height, width):
  c = 5
  layer = oracles.build(PatchEmbed, size, c)
  video = oracles.normal(2, frames, height, width, 3)
  s, p, q = size
  kernel = oracles.array(layer.proj.kernel).reshape(*size, 3, c)
  want = np.zeros((2, frames // s, height // p, width // q, c))
  for t, y, x in np.ndindex(want.shape[1:4]):
    for i, j, k in np.ndindex(*size):
      pixel = video[:, t * s + i, y * p + j, x * q + k]
      want[:, t, y, x] += pixel @ kernel[i, j, k]
  want += oracles.array(layer.proj.bias)
  got = oracles.call(layer, video)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 16, 16), (2, 4, 4)])
def test_patch_embed_starts_like_a_convolution_of_pytorch(size):
  layer = oracles.initial(PatchEmbed, size, 32)
  bound = 1 / math.sqrt(3 * math.prod(size))
  for values in (layer.proj.kernel[...], layer.proj.bias[...]):
    assert 0.8 * bound < np.abs(values).max() <= bound


def test_mlp():
  layer = oracles.build(Mlp, 6, 15, init=vit_init(0.02))
  assert layer.fc1.kernel.shape == (6, 15)
  x = oracles.normal(2, 3, 6)
  np.testing.assert_allclose(
    oracles.call(layer, x), oracles.mlp(layer, x), atol=1e-5
  )


@functools.partial(oracles.jit, static_argnames=("rate", "shared_axes"))
def drop(x, rate, seed=0, shared_axes=0):
  rngs = nnx.Rngs(dropout=jax.random.key(seed))
  return dropout(x, rate, train=True, rngs=rngs, shared_axes=shared_axes)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout(rate):
  y = np.asarray(drop(np.full((100, 200), 3.0, np.float32), rate))
  kept = y != 0
  np.testing.assert_allclose(y[kept], 3 / (1 - rate), rtol=1e-5)
  # Five deviations of a mean of 20,000 draws.
  assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / 20000) ** 0.5


def test_dropout_shares_trailing_axes():
  y = np.asarray(drop(np.ones((20, 30, 4, 5), np.float32), 0.5, shared_axes=2))
  frames = y.reshape(20, 30, 20)
  np.testing.assert_array_equal(
    frames, np.broadcast_to(frames[..., :1], frames.shape)
  )
  assert 0.4 < (frames[..., 0] == 0).mean() < 0.6
  # No axis left to share: every clip draws for every frame.
  assert (frames[..., 0] == 0).mean(axis=0).min() > 0
  assert (frames[..., 0] == 0).mean(axis=1).min() > 0


def test_dropout_draws_anew():
  x = np.ones((20, 30), np.float32)

  @oracles.jit
  def twice(x, key):
    rngs = nnx.Rngs(dropout=key)
    return [dropout(x, 0.5, train=True, rngs=rngs) for _ in range(2)]

  first, second = map(np.asarray, twice(x, jax.random.key(0)))
  assert (first != second).any()
  np.testing.assert_array_equal(first, drop(x, 0.5))
  assert (first != np.asarray(drop(x, 0.5, seed=1))).any()


def test_dropout_off():
  x = jnp.asarray(oracles.normal(4, 5))
  assert dropout(x, 0.5, train=False, rngs=None) is x
  rngs = nnx.Rngs(dropout=0)
  assert dropout(x, 0.0, train=True, rngs=rngs) is x
  assert int(rngs.dropout.count[...]) == 0  # nothing was drawn


def test_dropout_keeps_the_dtype():
  y = drop(np.ones((8, 8), jnp.bfloat16), 0.5)
  assert y.dtype == jnp.bfloat16
  assert set(np.unique(oracles.array(y)).tolist()) == {0, 2}


def test_dropout_needs_keys():
  with pytest.raises(ValueError, match=r"dropout of 0\.3 .*rngs=nnx\.Rngs"):
    dropout(jnp.ones(3), 0.3, train=True, rngs=None)
