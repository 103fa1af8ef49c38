import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn.convolution import (
  Conv,
  NarrowConv,
  PatchConv,
  kaiming_init,
  pointwise,
)
from vidjax.nn.functional import merge, split


def naive(kernel, x, stride, padding, groups):
  """One output value at a time, from the taps that lie inside."""
  kernel, x = oracles.array(kernel), oracles.array(x)
  side, _, width, out = kernel.shape
  b, t, h, w, _ = x.shape
  rows, columns = ((n + 2 * padding - side) // stride + 1 for n in (h, w))
  y = np.zeros((b, t, rows, columns, out))
  for row, column, o in np.ndindex(rows, columns, out):
    group = o // (out // groups)
    own = slice(group * width, (group + 1) * width)
    for p, q in np.ndindex(side, side):
      i, j = row * stride + p - padding, column * stride + q - padding
      if 0 <= i < h and 0 <= j < w:
        y[:, :, row, column, o] += x[:, :, i, j, own] @ kernel[p, q, :, o]
  return y


@pytest.mark.parametrize(
  ("side", "stride", "padding", "groups", "size"),
  [
    (7, 2, 3, 1, (9, 8)),
    (3, 1, 1, 2, (4, 5)),
    (3, 1, 1, 4, (2, 1)),
    (3, 2, 0, 2, (6, 5)),
    (1, 1, 0, 1, (3, 2)),
  ],
)
def test_convolution_equals_the_loop(side, stride, padding, groups, size):
  module = oracles.build(
    Conv, 8, 12, side, stride=stride, padding=padding, groups=groups
  )
  x = oracles.normal(2, 3, *size, 8)
  want = naive(module.kernel, x, stride, padding, groups)
  np.testing.assert_allclose(oracles.call(module, x), want, atol=3e-5)


def test_both_forms_of_groups_agree():
  module = oracles.build(Conv, 8, 16, 3, padding=1, groups=4)
  x = oracles.normal(3, 5, 4, 8)
  kernel = module.kernel[...]
  np.testing.assert_allclose(
    oracles.jit(module._grouped)(x, kernel),
    oracles.jit(module._group_by_group)(x, kernel),
    atol=1e-5,
  )


@pytest.mark.parametrize(
  ("platform", "convolutions", "groups"), [("cpu", 4, 1), ("tpu", 1, 4)]
)
def test_the_platform_that_runs_it_chooses_the_form(
  platform, convolutions, groups
):
  definition, params, stats = split(
    oracles.build(Conv, 8, 16, 3, padding=1, groups=4)
  )

  def run(params, x):
    return merge(definition, params, stats)(x)

  traced = jax.jit(run).trace(params, jnp.zeros((1, 2, 4, 4, 8)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count("stablehlo.convolution") == convolutions
  assert f"feature_group_count = {groups}" in text


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_patches_are_a_convolution_with_their_stride(size):
  module = oracles.build(PatchConv, 3, 5, 2)
  kernel = oracles.array(module.proj.kernel).reshape(2, 2, 3, 5)
  x = oracles.normal(2, 2, *size, 3)
  want = naive(kernel, x, 2, 0, 1) + oracles.array(module.proj.bias)
  np.testing.assert_allclose(oracles.call(module, x), want, atol=1e-5)


def test_pointwise_has_no_bias():
  module = oracles.initial(pointwise, 400, 200)
  assert module.bias is None
  # Kaiming, fan out: deviation sqrt(2 / outputs).
  assert np.std(module.kernel[...]) == pytest.approx(0.1, rel=0.02)


def test_initial_deviations():
  grouped = oracles.initial(Conv, 64, 128, 3, groups=4)
  assert grouped.kernel.shape == (3, 3, 16, 128)
  want = (2 / (128 * 9)) ** 0.5
  assert np.std(grouped.kernel[...]) == pytest.approx(want, rel=0.02)
  patches = oracles.initial(PatchConv, 32, 64, 4)
  want = (2 / (64 * 16)) ** 0.5
  assert np.std(patches.proj.kernel[...]) == pytest.approx(want, rel=0.02)
  assert (patches.proj.bias[...] == 0).all()
  kernel, bias = kaiming_init(8)(3)
  assert bias(jax.random.key(0), (4,), jnp.float32).tolist() == [0] * 4
  assert np.std(kernel(jax.random.key(0), (99, 99), jnp.float32)) == (
    pytest.approx(0.5, rel=0.02)
  )


def test_bfloat16():
  module = oracles.build(Conv, 8, 8, 3, padding=1, groups=2, dtype=jnp.bfloat16)
  y = oracles.call(module, oracles.normal(1, 2, 4, 4, 8))
  assert y.dtype == jnp.bfloat16
  assert module.kernel[...].dtype == jnp.float32


def test_groups_that_do_not_divide():
  with pytest.raises(ValueError, match=r"8 to 10 channels .* into 4 groups"):
    oracles.initial(Conv, 8, 10, 3, groups=4)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_narrow_convolution_equals_the_wide_one(side):
  narrow = oracles.build(NarrowConv, 6, 4, side)
  wide = oracles.build(Conv, 6, 4, side, padding=side // 2)
  wide.kernel = narrow.kernel
  x = jnp.asarray(oracles.normal(2, 3, 5, 7, 6))
  ct = jnp.asarray(oracles.normal(2, 3, 5, 7, 4, seed=1))

  def run(conv):
    definition, params, stats = split(conv)
    y, pull = jax.vjp(lambda p, x: merge(definition, p, stats)(x), params, x)
    return jax.tree.leaves((y, pull(ct)))

  for ours, theirs in zip(run(narrow), run(wide), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_narrow_convolution_sums_in_float32():
  conv = oracles.build(NarrowConv, 6, 4, 3, dtype=jnp.bfloat16)
  x = jnp.asarray(oracles.normal(1, 1, 5, 7, 6), jnp.bfloat16)
  y = conv(x)
  assert y.dtype == jnp.bfloat16
  exact = oracles.build(NarrowConv, 6, 4, 3)
  exact.kernel = nnx.Param(
    conv.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
  )
  want = exact(x.astype(jnp.float32)).astype(jnp.bfloat16)
  np.testing.assert_allclose(
    y.astype(jnp.float32), want.astype(jnp.float32), rtol=1e-2
  )
