import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.train.losses import cross_entropy, weighted_mean

B, K = 3, 5


def one_by_one(logits, labels, smoothing):
  losses = []
  for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
    total = sum(math.exp(z - max(row)) for z in row)
    nll = [-(z - max(row) - math.log(total)) for z in row]
    losses.append(
      (1 - smoothing) * nll[label] + smoothing * sum(nll) / len(nll)
    )
  return np.asarray(losses)


@pytest.fixture(scope="module")
def golden(shared):
  with np.load(shared / "golden/xvit/misc.npz") as file:
    return {k: file[k] for k in file.files if k.startswith("loss/")}


@pytest.mark.parametrize(
  ("name", "smoothing"), [("ce", 0.0), ("smooth0.3", 0.3)]
)
def test_cross_entropy_of_the_official_code(golden, name, smoothing):
  losses = cross_entropy(
    jnp.asarray(golden["loss/logits"]),
    jnp.asarray(golden["loss/ya"]),
    smoothing,
  )
  np.testing.assert_allclose(losses.mean(), golden[f"loss/{name}"], rtol=1e-6)


def test_mixed_loss_of_the_official_code(golden):
  first, second = (jnp.asarray(golden[f"loss/y{s}"]) for s in "ab")
  losses = cross_entropy(
    jnp.asarray(golden["loss/logits"]),
    (first, second, jnp.full(len(first), 0.7)),
    0.3,
  )
  np.testing.assert_allclose(
    losses.mean(), golden["loss/mixup_lam0.7_smooth0.3"], rtol=1e-6
  )


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  logits=hnp.arrays(np.float32, (B, K), elements=st.floats(-30, 30, width=32)),
  labels=hnp.arrays(np.int32, B, elements=st.integers(0, K - 1)),
  smoothing=st.sampled_from([0, 0.1, 0.3, 0.9]),
)
def test_cross_entropy_equals_the_equation(logits, labels, smoothing):
  np.testing.assert_allclose(
    cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing),
    one_by_one(logits, labels, smoothing),
    rtol=1e-5,
    atol=1e-5,
  )


def test_each_example_is_mixed_by_its_own_weight():
  logits = np.random.default_rng(0).normal(size=(B, K)).astype(np.float32)
  first, second = np.asarray([0, 1, 2]), np.asarray([4, 1, 3])
  lam = np.asarray([0.0, 0.25, 1.0], np.float32)
  expected = lam * one_by_one(logits, first, 0.2)
  expected += (1 - lam) * one_by_one(logits, second, 0.2)
  losses = cross_entropy(
    jnp.asarray(logits),
    (jnp.asarray(first), jnp.asarray(second), jnp.asarray(lam)),
    0.2,
  )
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_low_precision_logits_are_summed_in_float32():
  # In bfloat16 the sum of 512 equal terms would stop at 256.
  losses = cross_entropy(jnp.zeros((1, 512), jnp.bfloat16), jnp.zeros(1, int))
  assert losses.dtype == jnp.float32
  assert float(losses[0]) == pytest.approx(math.log(512), rel=1e-6)


def test_large_logits_stay_finite_with_their_gradient():
  logits = jnp.asarray([[1e4, -1e4, 0.0]])
  value, gradient = jax.value_and_grad(
    lambda z: cross_entropy(z, jnp.asarray([1]), 0.0).sum()
  )(logits)
  assert float(value) == 2e4
  np.testing.assert_allclose(gradient, [[1, -1, 0]])


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_of_its_range_is_an_error(smoothing):
  with pytest.raises(ValueError, match=rf"label_smoothing is {smoothing}"):
    cross_entropy(jnp.zeros((1, 2)), jnp.zeros(1, int), smoothing)


def test_weighted_mean_divides_by_the_weights():
  values, weight = jnp.asarray([1.0, 2, 4]), jnp.asarray([1.0, 0, 0.5])
  assert float(weighted_mean(values, weight)) == pytest.approx(3 / 1.5)


def test_a_value_without_weight_has_no_influence():
  def mean(values):
    return weighted_mean(values, jnp.asarray([True, False]))

  values = jnp.asarray([3.0, jnp.nan])
  assert float(mean(values)) == 3
  np.testing.assert_array_equal(jax.grad(mean)(values), [1, 0])


def test_the_mean_of_nothing_is_zero():
  assert float(weighted_mean(jnp.asarray([jnp.inf]), jnp.zeros(1))) == 0
