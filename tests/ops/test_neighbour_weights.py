import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from vidjax.ops.interframe import displacements, interframe_attention
from vidjax.ops.neighbour_weights import neighbour_places, neighbour_weights

B, T, H, W, C = 1, 3, 4, 3, 6


def maps(seed):
  return jnp.asarray(oracles.normal(B, T, H, W, C, seed=seed))


def sample(image, row, column):
  """Bilinear, zero outside of the map."""
  result = np.zeros(C)
  for y in range(H):
    for x in range(W):
      share = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
      result += share * image[y, x]
  return result


@pytest.mark.parametrize("score", ["scaled", "softmax"])
@pytest.mark.parametrize("moved", [False, True])
def test_weights_of_samples_are_what_frames_receive(score, moved):
  q, k, v = maps(0), maps(1), maps(2)
  offsets = None
  if moved:
    offsets = jnp.asarray(oracles.normal(B, T - 1, H, W, 9, 2, seed=3))
  options = {"kernel": 3, "dilation": 1}
  places = neighbour_places(q, offsets, **options)
  weights = neighbour_weights(q, k, offsets, score=score, **options)
  expected = np.zeros((T - 1, H, W, 9))
  received = np.zeros((T - 1, H, W, C))
  grid = displacements(3)
  for t, y, x in np.ndindex(T - 1, H, W):
    logits = []
    for n, (down, right) in enumerate(grid):
      row, column = y + down, x + right
      if offsets is not None:
        down, right = np.asarray(offsets[0, t, y, x, n])
        row, column = row + down, column + right
      np.testing.assert_allclose(
        places[0, t, y, x, n], [row, column], atol=1e-6
      )
      product = np.asarray(q[0, t, y, x]) @ sample(k[0, t + 1], row, column)
      logits.append(product)
    if score == "scaled":
      own = [p / C for p in logits]
    else:
      own = [math.exp(p / math.sqrt(C)) for p in logits]
      own = [p / sum(own) for p in own]
    expected[t, y, x] = own
    for n in range(9):
      row, column = np.asarray(places[0, t, y, x, n])
      received[t, y, x] += own[n] * sample(v[0, t + 1], row, column)
  np.testing.assert_allclose(weights[0], expected, atol=1e-5)
  y = interframe_attention(q, k, v, offsets, score=score, **options)
  np.testing.assert_allclose(y[0, :-1], received, atol=1e-5)


def test_unknown_score():
  with pytest.raises(ValueError, match="score is 'sum'; use one of"):
    neighbour_weights(maps(0), maps(1), score="sum")
