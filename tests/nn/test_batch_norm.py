import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn.batch_norm import BatchNorm, Pooled, batch_statistics, pool
from vidjax.nn.functional import merge, split

C = 5


def make(dim, *, dtype, rngs, **options):
  del rngs
  return BatchNorm(dim, dtype=dtype, **options)


class Net(nnx.Module):
  def __init__(self, *, dtype, rngs, **options):
    del rngs
    self.norm = BatchNorm(3, dtype=dtype, **options)

  def __call__(self, video, *, train, rngs):
    del rngs
    return self.norm(video, train=train)


def values(*shape, seed=0):
  """Far from zero, so that a one-pass variance would lose digits."""
  return 30 + 2 * oracles.normal(*shape, C, seed=seed)


def run(module, x, *, train=True):
  """The result, and the running statistics after it."""
  definition, params, stats = split(module)

  @oracles.jit
  def forward(params, stats, x):
    copy = merge(definition, params, stats)
    return copy(x, train=train), split(copy)[2]

  return forward(params, stats, x)


def naive(module, x, groups=1):
  """PyTorch's BatchNorm on each part of the clips; its new statistics."""
  y, means, variances = [], [], []
  for part in np.split(oracles.array(x), groups):
    flat = part.reshape(-1, C)
    mean = flat.sum(axis=0) / len(flat)
    squares = ((flat - mean) ** 2).sum(axis=0)
    normed = (part - mean) / np.sqrt(squares / len(flat) + 1e-5)
    y.append(normed * oracles.array(module.scale) + oracles.array(module.bias))
    means.append(mean)
    variances.append(squares / (len(flat) - 1))
  return np.concatenate(y), {
    "mean": 0.9 * oracles.array(module.mean) + 0.1 * np.mean(means, axis=0),
    "var": 0.9 * oracles.array(module.var) + 0.1 * np.mean(variances, axis=0),
  }


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rest", [(), (3,), (2, 3, 2)])
def test_training_equals_the_equations(groups, rest):
  module = oracles.build(make, C, groups=groups)
  x = values(8, *rest)
  y, stats = run(module, x)
  want, want_stats = naive(module, x, groups)
  np.testing.assert_allclose(y, want, atol=3e-5)
  for name in ("mean", "var"):
    np.testing.assert_allclose(stats[name], want_stats[name], rtol=1e-5)


def test_evaluation_uses_running_statistics_and_keeps_them():
  module = oracles.build(make, C)
  module.mean[...] = jnp.arange(1.0, C + 1)
  module.var[...] = jnp.arange(1.0, C + 1) / 4
  x = oracles.normal(2, 3, C)
  y, stats = run(module, x, train=False)
  mean, var = np.arange(1.0, C + 1), np.arange(1.0, C + 1) / 4
  want = (x - mean) / np.sqrt(var + 1e-5) * oracles.array(module.scale)
  np.testing.assert_allclose(y, want + oracles.array(module.bias), atol=1e-5)
  np.testing.assert_array_equal(stats["mean"], mean)
  np.testing.assert_array_equal(stats["var"], var)


def test_options():
  x = values(4, 3)
  module = oracles.build(make, C, momentum=1.0, unbiased=False, eps=0.5)
  y, stats = run(module, x)
  flat = oracles.array(x).reshape(-1, C)
  np.testing.assert_allclose(stats["mean"], flat.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(stats["var"], flat.var(axis=0), rtol=1e-5)
  want = (x - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 0.5)
  want = want * oracles.array(module.scale) + oracles.array(module.bias)
  np.testing.assert_allclose(y, want, atol=3e-5)


def test_initial_values():
  _, params, stats = split(oracles.initial(make, C))
  np.testing.assert_array_equal(params["scale"], np.ones(C))
  np.testing.assert_array_equal(params["bias"], np.zeros(C))
  np.testing.assert_array_equal(stats["mean"], np.zeros(C))
  np.testing.assert_array_equal(stats["var"], np.ones(C))


def test_bfloat16_keeps_float32_statistics():
  module = oracles.build(make, C, dtype=jnp.bfloat16)
  x = jnp.asarray(values(4, 300), jnp.bfloat16)
  y, stats = run(module, x)
  assert y.dtype == jnp.bfloat16
  assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
  _, want = naive(module, np.asarray(x, np.float32))
  np.testing.assert_allclose(stats["mean"], want["mean"], rtol=1e-5)
  np.testing.assert_allclose(stats["var"], want["var"], rtol=1e-4)


@pytest.mark.parametrize(
  ("shape", "groups", "message"),
  [
    ((3, 2, C), 2, "in 2 groups cannot divide 3 clips; use a batch"),
    ((2, C), 2, "got 1 value for each channel"),
  ],
)
def test_errors(shape, groups, message):
  module = BatchNorm(C, groups=groups, dtype=jnp.float32)
  with pytest.raises(ValueError, match=message):
    module(jnp.zeros(shape), train=True)


def test_groups_are_positive():
  with pytest.raises(ValueError, match="groups is 0; use 1 or more"):
    BatchNorm(C, groups=0, dtype=jnp.float32)


@pytest.mark.parametrize("groups", [1, 2])
def test_precise_statistics_are_those_of_all_values(groups):
  model = oracles.build(Net, groups=groups)
  definition, params, stats = split(model)
  clips = 5 + oracles.normal(12, 2, 4, 4, 3)
  clips[4:] *= 3  # batches differ, in mean and in spread

  @oracles.jit
  def of_batch(video):
    return batch_statistics(definition, params, stats, video)

  parts = [of_batch(clips[i:j]) for i, j in ((0, 4), (4, 10), (10, 12))]
  total = parts[0]
  for part in parts[1:]:
    total = jax.jit(pool)(total, part)
  assert total.clips == 12
  flat = oracles.array(clips).reshape(-1, 3)
  norm = total.stats["norm"]
  np.testing.assert_allclose(norm["mean"], flat.mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(norm["var"], flat.var(axis=0), rtol=1e-5)
  assert not model.norm.exact


def test_pool_goes_through_a_whole_model():
  def pooled(clips, mean, var):
    norm = {"mean": jnp.float32(mean), "var": jnp.float32(var)}
    return Pooled(jnp.float32(clips), {"blocks": {"0": norm}, "norm": norm})

  # Values 0, 2 and values 4, 4.
  total = pool(pooled(1, 1.0, 1.0), pooled(1, 4.0, 0.0))
  want = np.array([0, 2, 4, 4])
  for norm in (total.stats["blocks"]["0"], total.stats["norm"]):
    assert norm["mean"] == want.mean()
    assert norm["var"] == want.var()
