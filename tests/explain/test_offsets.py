import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from vidjax.explain.draw_offsets import draw_offsets
from vidjax.explain.layers import Query, interframe_layers
from vidjax.explain.offsets import Neighbours, neighbours_of
from vidjax.models.resnet import ResNet
from vidjax.ops.interframe import displacements

TINY = {"image_size": 32, "dim": 4, "depths": (1, 2, 2, 1), "dual_head": False}


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def test_places_are_those_that_the_block_uses():
  model = oracles.build(ResNet, 5, scale=0.1, **TINY)
  video = jnp.asarray(oracles.normal(1, 12, 32, 32, 3))
  x = model.stem(video, train=False)
  for block in (*model.stages[0], *model.stages[1], model.stages[2][0]):
    x = block(x, train=False)
  asks = model.stages[2][1]
  offsets = asks.temporal.attention.offset(asks.inner(x, train=False))
  name = "stages.2.1.temporal.attention"
  assert name in interframe_layers(model)
  found = neighbours_of(model, video, name)
  assert found.weights.shape == (2, 2, 2, 9)
  own = np.moveaxis(np.indices((2, 2)), 0, -1)[:, :, None]
  np.testing.assert_allclose(
    found.places, offsets[0] + own + displacements(3), atol=1e-5
  )
  np.testing.assert_allclose(found.moves, offsets[0].mean(axis=-2), atol=1e-5)
  np.testing.assert_allclose(
    found.logits, oracles.call(model, video), atol=1e-5
  )


def neighbours():
  places = np.zeros((1, 2, 4, 9, 2), np.float32)
  places += np.moveaxis(np.indices((2, 4)), 0, -1)[None, :, :, None]
  places += displacements(3)
  places[0, 1, 2] += [-0.5, 0.25]  # up by 2 pixels, right by 1
  weights = np.arange(9) / 10 + np.zeros((1, 2, 4, 9))
  return Neighbours(
    places, weights.astype(np.float32), np.zeros((1, 5), np.float32), "layer"
  )


CLIP = np.zeros((2, 8, 16, 3), np.uint8)


def test_arrows():
  figure = draw_offsets(CLIP, neighbours(), None, "title")
  arrows = figure.axes[1].collections[0]
  assert (arrows.U[1 * 4 + 2], arrows.V[1 * 4 + 2]) == (1, -2)
  np.testing.assert_allclose(
    arrows.XY[1 * 4 + 2], [2.5 * 4 - 0.5, 1.5 * 4 - 0.5]
  )
  assert not np.delete(arrows.U, 6).any()


def test_places_of_a_position_and_their_weights():
  figure = draw_offsets(CLIP, neighbours(), Query(0, (1, 2)), "title")
  points = figure.axes[1].collections[0]
  expected = [
    ((2 + right + 0.25 + 0.5) * 4 - 0.5, (1 + down - 0.5 + 0.5) * 4 - 0.5)
    for down, right in displacements(3)
  ]
  np.testing.assert_allclose(points.get_offsets(), expected, atol=1e-5)
  np.testing.assert_allclose(points.get_array(), np.arange(9) / 10, atol=1e-6)


@pytest.mark.parametrize("query", [(1, 0, 0), (0, 2, 0), (0, 0, 4), (0, -1, 0)])
def test_a_position_that_is_not_there(query):
  frame, *place = query
  with pytest.raises(ValueError, match="maps 0 to 0 look at the next one, eac"):
    draw_offsets(CLIP, neighbours(), Query(frame, tuple(place)), "title")
  with pytest.raises(ValueError, match="has no class token"):
    draw_offsets(CLIP, neighbours(), Query(0, None), "title")
