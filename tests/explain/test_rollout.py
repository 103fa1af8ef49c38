import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.explain.intermediates import intermediates
from vidjax.explain.layers import Layout, Query, attention_layers
from vidjax.explain.rollout import before, rollout
from vidjax.nn.temporal import Grid

T, N = 4, 17


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def clip():
  return jnp.asarray(tiny.video(T, batch=1))


def attention(model, video):
  """Weights of both blocks, averaged over the heads."""
  names = [f"blocks.{i}.attention.weights" for i in range(2)]
  found = intermediates(model, video, names)
  return [np.asarray(found[name][0], np.float64) for name in names]


def products(matrices):
  """Abnar & Zuidema 2020: the product of 0.5 A + 0.5 I, last layer first."""
  result = np.eye(T * N)
  for matrix in matrices:
    result = (0.5 * matrix + 0.5 * np.eye(T * N)) @ result
  return result


def test_attention_inside_frames_is_a_product_of_matrices():
  model, video = tiny.vit(temporal={"op": "none"}), clip()
  matrices = []
  for weights in attention(model, video):
    matrix = np.zeros((T * N, T * N))
    for t in range(T):
      own = slice(t * N, (t + 1) * N)
      matrix[own, own] = weights[t].mean(axis=0)
    matrices.append(matrix)
  classes = np.zeros(T * N)
  classes[::N] = 1 / T
  expected = (classes @ products(matrices)).reshape(T, N)
  found = rollout(model, video)
  np.testing.assert_allclose(
    found.shares.patches.reshape(T, -1), expected[:, 1:], atol=1e-6
  )
  np.testing.assert_allclose(
    found.shares.classes[:, 0], expected[:, 0], atol=1e-6
  )
  assert found.shares.frames.sum() == pytest.approx(1, abs=1e-5)
  np.testing.assert_allclose(
    found.logits, oracles.call(model, video), atol=1e-5
  )
  assert found.layers == ["blocks.0.attention", "blocks.1.attention"]


def test_mixed_values_count_at_their_frames():
  model = tiny.vit(temporal={"op": "mixing", "shift_div": 4})
  video, heads, d = clip(), 3, 8
  matrices = []
  for weights in attention(model, video):
    matrix = np.zeros((T * N, T * N))
    for t in range(T):
      for c in range(heads * d):
        source = t + (1 if c < 6 else -1 if c < 12 else 0)
        if 0 <= source < T:
          rows, columns = (slice(s * N, (s + 1) * N) for s in (t, source))
          matrix[rows, columns] += weights[t, c // d] / (heads * d)
    matrices.append(matrix)
  found = rollout(
    model, video, layer=attention_layers(model)[1], query=Query(2, (1, 2))
  )
  expected = products(matrices)[2 * N + 1 + 4 + 2].reshape(T, N)
  np.testing.assert_allclose(
    found.shares.patches.reshape(T, -1), expected[:, 1:], atol=1e-6
  )
  lost = 1 - expected.sum()
  assert lost > 0.01
  assert found.shares.outside == pytest.approx(lost, abs=1e-5)


@pytest.mark.parametrize("op", ["none", "patch_shift"])
def test_attention_of_each_token_to_itself_moves_nothing(op):
  model = tiny.swin(temporal={"op": op})
  layer = attention_layers(model)[1]
  layout = Layout(T, Grid(0, 6, 6))
  eye = jnp.broadcast_to(jnp.eye(9), (4, T, 2, 9, 9))
  shares = jnp.asarray(oracles.normal(T, 36) ** 2)
  np.testing.assert_allclose(
    before(layer, layout, eye, shares), shares, rtol=1e-5
  )


def test_pairs_come_back_to_their_frames():
  model = tiny.vit(temporal={"op": "leap", "levels": [1], "shift": "none"})
  layer = attention_layers(model)[0]
  layout = Layout(T, Grid(1, 4, 4))
  swap = jnp.eye(2 * N)[jnp.arange(2 * N) - N]  # all look at the partner
  weights = jnp.broadcast_to(swap, (1, T // 2, 3, 2 * N, 2 * N))
  shares = jnp.zeros((T, N)).at[1, 5].set(1)
  expected = np.zeros((T, N))
  expected[1, 5] = expected[3, 5] = 0.5
  np.testing.assert_allclose(
    before(layer, layout, weights, shares), expected, atol=1e-6
  )


def test_windows_and_merged_tokens_lose_nothing():
  model = tiny.swin(temporal={"op": "patch_shift"})
  found = rollout(model, jnp.asarray(tiny.swin_video(T, batch=1)))
  assert found.shares.patches.shape == (T, 6, 6)
  # Channels beyond the clip's ends are kept ("keep"), none are zero.
  assert found.shares.frames.sum() == pytest.approx(1, abs=1e-5)
  assert found.shares.outside < 1e-5


def test_divided_attention_and_a_head_over_frames():
  model = tiny.vit(temporal={"op": "divided"}, head=tiny.ATTENTION)
  found = rollout(model, clip())
  assert len(found.layers) == 5
  # Half of the head's class token stays its own.
  own = intermediates(model, clip(), ["head.blocks.0.attention.weights"])
  weight = float(np.asarray(*own.values())[0, 0, :, 0, 0].mean())
  assert found.shares.outside == pytest.approx(0.5 + 0.5 * weight, abs=1e-5)


def test_inter_frame_attention_has_no_shares():
  model = tiny.swin(temporal={"op": "interframe", "window": 3})
  with pytest.raises(ValueError, match="adds inter-frame attention, which has"):
    rollout(model, jnp.asarray(tiny.swin_video(T, batch=1)))
