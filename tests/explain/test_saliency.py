import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.explain.saliency import saliency
from vidjax.models.backbone import Backbone


class Linear(Backbone):
  """Logits are sums of weighted pixels; the third frame has no weight."""

  def __init__(self, weights):
    self.weights = nnx.Param(weights)

  def __call__(self, video, *, train=False, rngs=None):
    del train, rngs
    return jnp.einsum("bthwc,thwck->bk", video, self.weights[...])


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def linear():
  weights = oracles.normal(4, 2, 3, 3, 5)
  weights[2] = 0
  return Linear(jnp.asarray(weights))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_of_a_linear_model_it_is_each_pixels_part(noise):
  model = linear()
  video = jnp.asarray(oracles.normal(1, 4, 2, 3, 3, seed=1))
  found = saliency(model, video, samples=3, noise=noise)
  weights = np.asarray(model.weights[...], np.float64)
  logits = np.einsum("thwc,thwck->k", np.asarray(video[0]), weights)
  label = int(logits.argmax())
  assert found.label == label
  np.testing.assert_allclose(found.logits[0], logits, atol=1e-5)
  expected = np.zeros((4, 2, 3))
  for t, y, x in np.ndindex(4, 2, 3):
    for c in range(3):
      expected[t, y, x] += weights[t, y, x, c, label] * video[0, t, y, x, c]
  np.testing.assert_allclose(found.pixels, abs(expected), atol=1e-5)
  assert not found.pixels[2].any()
  assert found.pixels[[0, 1, 3]].all()


class Products(Backbone):
  """Logits are sums of the products of each frame with the next one."""

  def __init__(self, weights):
    self.weights = nnx.Param(weights)

  def __call__(self, video, *, train=False, rngs=None):
    del train, rngs
    return jnp.einsum(
      "bthwc,bthwc,ck->bk", video[:, :-1], video[:, 1:], self.weights[...]
    )


def test_noise_is_averaged_and_repeatable():
  weights = oracles.normal(3, 5)
  model = Products(jnp.asarray(weights))
  video = oracles.normal(1, 3, 2, 2, 3, seed=1)
  plain, one, again, other, many = (
    saliency(
      model, jnp.asarray(video), label=2, samples=n, noise=noise, seed=seed
    ).pixels
    for noise, seed, n in (
      (0.0, 0, 1),
      (0.1, 0, 2),
      (0.1, 0, 2),
      (0.1, 1, 2),
      (0.1, 0, 4000),
    )
  )
  expected = np.zeros((3, 2, 2))
  for t, c in np.ndindex(3, 3):
    for other_frame in {t - 1, t + 1} & {0, 1, 2}:
      product = video[0, t, :, :, c] * video[0, other_frame, :, :, c]
      expected[t] += weights[c, 2] * product
  np.testing.assert_allclose(plain, abs(expected), atol=1e-5)
  np.testing.assert_array_equal(one, again)
  assert not np.allclose(one, plain, atol=1e-3)
  assert not np.allclose(one, other, atol=1e-3)
  np.testing.assert_allclose(many, plain, atol=0.2)  # linear: no bias


def test_errors():
  video = jnp.zeros((1, 4, 2, 3, 3))
  with pytest.raises(ValueError, match="there is no class 5; the model has 5"):
    saliency(linear(), video, label=5)
  with pytest.raises(ValueError, match="samples is 0; use 1 or more"):
    saliency(linear(), video, samples=0)
  with pytest.raises(ValueError, match=r"noise is -1.0; use 0 or more"):
    saliency(linear(), video, noise=-1.0)
