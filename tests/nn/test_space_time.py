import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EVAL, GRID, HEADS, SHAPE, B, C, N, T
from vidjax.nn.space_time import DividedAttention, JointAttention


def test_joint_attention():
  x = tiny.tokens()
  clip = oracles.project(tiny.attention(), x.reshape(B, 1, T * N, C))
  y = oracles.linear(tiny.attention().proj, oracles.attend_frames(*clip, HEADS))
  np.testing.assert_allclose(
    oracles.call(tiny.attention(), x, JointAttention(), GRID, **EVAL),
    y.reshape(B, T, N, C),
    atol=1e-5,
  )


def test_divided_attention_block():
  block = oracles.build(tiny.make_block, {"op": "divided"})
  plug = block.temporal
  x = tiny.tokens()
  x[:, :, 0] = x[:, :1, 0]  # one class token, the same in every frame
  want = x.astype(np.float64)
  for n in range(1, N):  # each patch attends to its own place in time
    track = x[:, None, :, n]
    update = tiny.attention_unit(plug.attention, plug.norm, track)[:, 0]
    want[:, :, n] += oracles.linear(plug.fc, update)
  update = tiny.attention_unit(block.attention, block.norm1, want)
  update[:, :, 0] = update[:, :, 0].mean(axis=1, keepdims=True)
  want = want + update
  want = want + tiny.mlp_unit(block, want)
  got = oracles.call(block, x, GRID, **EVAL)
  np.testing.assert_allclose(got, want, atol=3e-5)
  np.testing.assert_allclose(got[:, 1:, 0], got[:, :-1, 0], atol=1e-6)


def test_divided_attention_starts_as_plain_attention():
  before = oracles.jit(
    lambda x: DividedAttention(
      SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0)
    ).before(x, GRID, **EVAL)
  )
  np.testing.assert_array_equal(before(tiny.tokens()), tiny.tokens())
