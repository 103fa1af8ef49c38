import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn import attention
from vidjax.nn.attention import Attention, Block, attend
from vidjax.nn.functional import split
from vidjax.nn.init import torch_init, vit_init
from vidjax.nn.temporal import BlockShape, Grid, Temporal

GRID = Grid(1, 2, 2)
EVAL = {"train": False, "rngs": None}
run = oracles.jit(attend, static_argnames=("heads", "dropout_rate"))


def qkv(n=5, m=7, c=12, scale=1.0):
  return (
    oracles.normal(2, 3, n, c, seed=1) * scale,
    oracles.normal(2, 3, m, c, seed=2),
    oracles.normal(2, 3, m, c, seed=3),
  )


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_equals_the_loop(heads, scale):
  q, k, v = qkv(scale=scale)
  np.testing.assert_allclose(
    run(q, k, v, heads=heads),
    oracles.attend_frames(q, k, v, heads),
    rtol=1e-4,
    atol=2e-5,
  )


def test_both_orders_of_the_division_agree():
  """That of CPUs and that of other platforms, with their gradients."""
  weights = np.exp(oracles.normal(2, 3, 4, 5, 7, seed=4))
  v, ct = oracles.normal(2, 3, 4, 7, 6, seed=5), oracles.normal(2, 3, 4, 5, 6)

  def differentiate(form, weights, v):
    def weigh(weights, v):
      return form(weights, weights.sum(axis=-1, keepdims=True), v)

    y, pull = jax.vjp(weigh, jnp.asarray(weights), jnp.asarray(v))
    return y, *pull(jnp.asarray(ct))

  results = [
    differentiate(form, weights, v)
    for form in (attention.divided_sum, attention.sum_of_divided)
  ]
  want = weights / weights.sum(axis=-1, keepdims=True) @ v
  np.testing.assert_allclose(results[0][0], want, atol=2e-6)
  for one, other in zip(*results, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-6)


def test_huge_logits_pick_one_key():
  q, k, v = qkv(n=2, m=4)
  y = run(q * 1e5, k, v, heads=1)
  best = np.einsum("btnc,btmc->btnm", q, k).argmax(axis=-1)
  want = np.take_along_axis(v, best[..., None], axis=2)
  np.testing.assert_allclose(y, want, rtol=1e-6)


def test_order_of_keys_does_not_matter():
  q, k, v = qkv()
  order = np.random.default_rng(0).permutation(7)
  np.testing.assert_allclose(
    run(q, k[:, :, order], v[:, :, order], heads=3),
    run(q, k, v, heads=3),
    atol=1e-6,
  )


def test_a_vector_added_to_all_keys_does_not_matter():
  q, k, v = qkv()
  np.testing.assert_allclose(
    run(q, k + oracles.normal(12), v, heads=3), run(q, k, v, heads=3), atol=1e-5
  )


def test_zero_keys_average_the_values():
  q, k, v = qkv()
  want = np.broadcast_to(v.mean(axis=2, keepdims=True), q.shape)
  np.testing.assert_allclose(run(q, 0 * k, v, heads=3), want, atol=1e-6)


@pytest.mark.parametrize(
  ("times", "masked"), [(1, 0), (3, 0), (None, 1), (None, 3), (3, 3), (1, 1)]
)
def test_bias_and_mask_are_added_to_the_logits(times, masked):
  """Both by window, frame, head, query and key; ones broadcast."""
  heads, windows, n = 2, 2, 4
  q, k, v = (oracles.normal(4, 3, n, 6, seed=i) for i in range(3))
  bias = None if times is None else oracles.normal(times, heads, n, n, seed=3)
  mask = None
  if masked:
    far = np.random.default_rng(0).random((windows, masked, n, n)) < 0.4
    mask = np.where(far, np.float32(-100), np.float32(0))
  got = oracles.jit(
    lambda q, k, v: attend(
      q,
      k,
      v,
      heads=heads,
      bias=None if bias is None else jnp.asarray(bias),
      mask=mask,
    )
  )(q, k, v)
  for b, t, head in np.ndindex(4, 3, heads):
    own = slice(3 * head, 3 * head + 3)
    logits = oracles.array(q[b, t, :, own]) @ k[b, t, :, own].T / 3**0.5
    if bias is not None:
      logits += bias[t % times, head]
    if mask is not None:
      logits += mask[b % windows, t % masked]  # clips of two windows each
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
      got[b, t, :, own], weights @ v[b, t, :, own], atol=1e-5
    )


def test_gradients_equal_those_of_softmax():
  q, k, v = qkv(n=3, m=4, c=6)

  def plain(q, k, v):
    q, k, v = (x.reshape(*x.shape[:3], 2, 3) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("btngd,btmgd->btgnm", q, k) / 3**0.5)
    return jnp.einsum("btgnm,btmgd->btngd", weights, v).reshape(2, 3, 3, 6)

  @functools.partial(oracles.jit, static_argnums=0)
  def gradients(attention, q, k, v):
    return jax.grad(
      lambda q, k, v: jnp.sin(attention(q, k, v)).sum(), argnums=(0, 1, 2)
    )(q, k, v)

  ours = gradients(functools.partial(attend, heads=2), q, k, v)
  for got, want in zip(ours, gradients(plain, q, k, v), strict=True):
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_bfloat16_is_close():
  q, k, v = (x.astype(jnp.bfloat16) for x in qkv(n=9, m=33, c=24))
  y = run(q, k, v, heads=3)
  assert y.dtype == jnp.bfloat16
  want = oracles.attend_frames(q, k, v, 3)
  # Three roundings to 8 bits: of q / sqrt(d), of the weights, of the output.
  np.testing.assert_allclose(oracles.array(y), want, atol=0.02)


@functools.partial(oracles.jit, static_argnames="rate")
def drop(q, k, v, rate, seed=0):
  rngs = nnx.Rngs(dropout=jax.random.key(seed))
  return attend(q, k, v, heads=3, dropout_rate=rate, train=True, rngs=rngs)


def test_dropout_keeps_the_expectation():
  q, k, _ = qkv(n=16, m=512)
  # All values one: each output is the kept weight of one query and head.
  y = np.asarray(drop(q, k, jnp.ones(k.shape), 0.25)).reshape(2, 3, 16, 3, 4)
  assert y.std(axis=-1).max() < 1e-5  # a key is dropped with all its channels
  assert abs(y.mean() - 1) < 0.01
  assert 0.01 < y[..., 0].std() < 0.15


def test_dropout_drops_weights_and_scales_the_rest():
  q, k, _ = qkv(n=2, m=12)
  # Zero keys and one-hot values: the outputs are the weights themselves.
  v = np.broadcast_to(np.eye(12, dtype=np.float32), k.shape)
  weights = np.asarray(drop(q, 0 * k, v, 0.5))
  dropped = np.isclose(weights, 0)
  kept = np.isclose(weights, 1 / 12 / 0.5)
  assert (dropped | kept).all()
  assert 0.3 < dropped.mean() < 0.7
  assert not np.array_equal(weights, drop(q, 0 * k, v, 0.5, seed=1))


def test_dropout_is_off_outside_training():
  q, k, v = qkv()
  np.testing.assert_array_equal(
    run(q, k, v, heads=3, dropout_rate=0.9), run(q, k, v, heads=3)
  )


def test_heads_must_divide():
  with pytest.raises(ValueError, match="10 channels do not divide into 4"):
    oracles.build(Attention, 10, 4, init=torch_init)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_module(qkv_bias):
  attention = oracles.build(
    Attention, 12, 3, init=torch_init, qkv_bias=qkv_bias
  )
  assert ("bias" in split(attention)[1]["qkv"]) == qkv_bias
  x = oracles.normal(2, 2, 5, 12)
  y = oracles.attend_frames(*oracles.project(attention, x), 3)
  np.testing.assert_allclose(
    oracles.call(attention, x, Temporal(), GRID, **EVAL),
    oracles.linear(attention.proj, y),
    atol=1e-5,
  )


def block(**options):
  # A large epsilon, to tell it from others.
  shape = BlockShape(12, 3, norm_eps=0.1, init=torch_init)
  return oracles.build(Block, shape, Temporal(), **options)


def test_block():
  module = block(mlp_ratio=2.5)
  assert module.mlp.fc1.kernel.shape == (12, 30)
  x = oracles.normal(2, 2, 5, 12)
  normed = oracles.layer_norm(module.norm1, x, 0.1)
  y = oracles.attend_frames(*oracles.project(module.attention, normed), 3)
  want = x + oracles.linear(module.attention.proj, y)
  want += oracles.mlp(module.mlp, oracles.layer_norm(module.norm2, want, 0.1))
  got = oracles.call(module, x, GRID, **EVAL)
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_drop_path_removes_whole_branches_of_frames():
  module = block(drop_path=0.5)
  x = oracles.normal(8, 16, 5, 12)

  @oracles.jit
  def outcomes(x, key):
    """What each choice of kept branches gives, and what training gave."""

    def with_attention(x):
      normed = module.norm1(x)
      return x + 2 * module.attention(normed, Temporal(), GRID, **EVAL)

    def with_mlp(x):
      return x + 2 * module.mlp(module.norm2(x))

    choices = (x, with_attention(x), with_mlp(x), with_mlp(with_attention(x)))
    return choices, module(x, GRID, train=True, rngs=nnx.Rngs(dropout=key))

  choices, y = outcomes(x, jax.random.key(0))
  fits = np.stack(
    [np.isclose(y, choice, atol=1e-4).all(axis=(2, 3)) for choice in choices]
  )
  np.testing.assert_array_equal(fits.sum(axis=0), 1)
  # 128 frames, each choice with probability 1/4: 32 +- 4.9.
  counts = fits.sum(axis=(1, 2))
  assert counts.min() >= 14, counts
  assert counts.max() <= 50, counts
  # Sixteen equal draws in a clip happen once in 32,768 clips.
  assert (fits.sum(axis=2).max(axis=0) < 16).all()
  attended = fits[1] | fits[3]
  assert (attended.any(axis=1) & ~attended.all(axis=1)).all()


def test_bfloat16_keeps_float32_parameters():
  module = block(dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(split(module)[1])} == {
    jnp.dtype("float32")
  }
  x = oracles.normal(1, 2, 5, 12)
  y = oracles.call(module, x.astype(jnp.bfloat16), GRID, **EVAL)
  assert y.dtype == jnp.bfloat16
  want = oracles.call(block(), x, GRID, **EVAL)
  np.testing.assert_allclose(oracles.array(y), want, atol=0.15)


def test_initial_values():
  shape = BlockShape(96, 3, norm_eps=1e-6, init=vit_init(0.05))
  module = oracles.initial(Block, shape, Temporal())
  for layer in (
    module.attention.qkv,
    module.attention.proj,
    module.mlp.fc1,
    module.mlp.fc2,
  ):
    assert abs(float(np.std(layer.kernel[...])) - 0.05) < 2e-3
    np.testing.assert_array_equal(layer.bias[...], 0)
  for norm in (module.norm1, module.norm2):
    np.testing.assert_array_equal(norm.scale[...], 1)
    np.testing.assert_array_equal(norm.bias[...], 0)
