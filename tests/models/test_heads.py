import jax
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.models.heads import AverageHead, TemporalAttentionHead, make_head
from vidjax.nn.functional import split

B, T, C, K = 2, 5, 24, 7
EVAL = {"train": False, "rngs": None}
TA = {"kind": "temporal_attention", "heads": 3}


def build(options, dropout_rate=0.5):
  return oracles.build(make_head, options, C, K, dropout_rate=dropout_rate)


def features(seed=0, t=T):
  return oracles.normal(B, t, C, seed=seed)


@pytest.mark.parametrize("t", [1, 5])
def test_average_is_the_mean_of_the_logits(t):
  head = build({"kind": "average"})
  assert isinstance(head, AverageHead)
  x = features(t=t)
  want = sum(oracles.linear(head.fc, x[:, i]) for i in range(t)) / t
  np.testing.assert_allclose(
    oracles.call(head, x, **EVAL), want, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  ("layers", "mlp_dim", "t"), [(1, None, 5), (2, 10, 3), (0, 6, 2), (1, 6, 1)]
)
def test_temporal_attention(layers, mlp_dim, t):
  head = build(TA | {"layers": layers, "mlp_dim": mlp_dim})
  assert isinstance(head, TemporalAttentionHead)
  assert head.fc1.kernel.shape == (C, mlp_dim or C)
  x = 0.05 * features(t=t)  # small, so that the epsilon of 1e-5 matters
  token = np.broadcast_to(oracles.array(head.class_token), (B, 1, C))
  y = np.concatenate([token, x], axis=1)
  for block in head.blocks:
    normed = oracles.layer_norm(block.norm1, y, 1e-5)
    qkv = [z[:, None] for z in oracles.project(block.attention, normed)]
    attended = oracles.attend_frames(*qkv, 3)[:, 0]
    y = y + oracles.linear(block.attention.proj, attended)
    y = y + oracles.mlp(block.mlp, oracles.layer_norm(block.norm2, y, 1e-5))
  hidden = oracles.layer_norm(head.norm, y[:, 0], 1e-5)
  hidden = oracles.gelu(oracles.linear(head.fc1, hidden))
  np.testing.assert_allclose(
    oracles.call(head, x, **EVAL), oracles.linear(head.fc2, hidden), atol=1e-4
  )


def test_temporal_attention_has_no_qkv_bias():
  _, params, _ = split(build(TA | {"layers": 2}))
  for block in params["blocks"].values():
    assert set(block["attention"]["qkv"]) == {"kernel"}
    assert set(block["attention"]["proj"]) == {"kernel", "bias"}


def test_temporal_attention_knows_no_order():
  head = build(TA)
  x = features()
  run = oracles.jit(lambda x: head(x, **EVAL))
  np.testing.assert_allclose(run(x), run(x[:, [3, 0, 4, 1, 2]]), atol=1e-5)


@pytest.mark.parametrize("options", [{"kind": "average"}, TA], ids=str)
def test_dropout(options):
  head = build(options)

  @oracles.jit
  def run(x, key):
    trained = head(x, train=True, rngs=nnx.Rngs(dropout=key))
    return trained, head(x, **EVAL)

  x = features()
  trained, evaluated = run(x, jax.random.key(0))
  assert np.abs(trained - evaluated).max() > 1e-2
  assert np.abs(trained - run(x, jax.random.key(1))[0]).max() > 1e-2
  with pytest.raises(ValueError, match=r"dropout of 0\.5 in training"):
    oracles.call(head, x, train=True, rngs=None)
  calm = build(options, dropout_rate=0.0)
  np.testing.assert_array_equal(
    oracles.call(calm, x, train=True, rngs=None), evaluated
  )


def test_temporal_attention_drops_features_and_hidden_units():
  # Without blocks the class token sees no frame: what differs is the second.
  head = build(TA | {"layers": 0})

  @oracles.jit
  def run(x, key):
    rngs = nnx.Rngs(dropout=key)
    trained = head(x, train=True, rngs=rngs)
    return trained - head(x, **EVAL), rngs.dropout.count[...]

  change, draws = run(features(), jax.random.key(0))
  assert np.abs(change).max() > 1e-2
  assert int(draws) == 2


def test_average_dropout_keeps_the_expectation():
  head = build({"kind": "average"}, dropout_rate=0.25)
  x = features()

  @oracles.jit
  def mean(x, key):
    def one(key):
      return head(x, train=True, rngs=nnx.Rngs(dropout=key))

    return jax.vmap(one)(jax.random.split(key, 4000)).mean(axis=0)

  got = mean(x, jax.random.key(0))
  np.testing.assert_allclose(got, oracles.call(head, x, **EVAL), atol=0.05)


def test_initial_values():
  head = oracles.initial(
    make_head, {"kind": "average"}, 96, 50, dropout_rate=0.0
  )
  assert np.std(head.fc.kernel[...]) == pytest.approx(0.001, rel=0.05)
  np.testing.assert_array_equal(head.fc.bias[...], 0)

  head = oracles.initial(make_head, TA, 96, 50, dropout_rate=0.0)
  np.testing.assert_array_equal(head.class_token[...], 0)
  bound = 96**-0.5  # PyTorch's default, biases too
  for layer in (head.fc1, head.fc2, head.blocks[0].mlp.fc1):
    for values in (layer.kernel[...], layer.bias[...]):
      assert 0.9 * bound < np.abs(values).max() <= bound


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kind": "max"}, r"head\.kind is 'max'; use one of 'average', 'temporal_"),
    ({"kind": "average", "layers": 1}, "head 'average': .*'layers'"),
    ({"kind": "temporal_attention"}, "'temporal_attention': .*'heads'"),
    (TA | {"heads": 5}, "24 channels do not divide into 5 heads"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    build(options)


def test_options_stay_as_they_are():
  options = TA | {"layers": 1}
  build(options)
  assert options == TA | {"layers": 1}
