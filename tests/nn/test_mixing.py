import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EVAL, GRID, HEADS, SHAPE, B, C, N, T
from vidjax.nn.attention import attend
from vidjax.nn.mixing import Mixing

MIXINGS = [
  {},
  {"mix": "k"},
  {"mix": "v"},
  {"mix": "x"},
  {"mix": "none"},
  {"mix": "kv", "shift_div": 4, "window": 2},
  {"mix": "x", "shift_div": 2, "window": 2, "boundary_only": True},
  {"mix": "kv", "shift_div": 4, "segment": 2},
  {"mix": "kv", "shift_div": 3, "split": "heads"},
  {"summary_tokens": True},
  {"mix": "v", "segment": 2, "summary_tokens": True},
  {"mix": "x", "summary_tokens": True},
]


def naive_mixing(
  x, *, mix="kv", split="channels", summary_tokens=False, **options
):
  """X-ViT section 3, frame by frame."""
  defaults = {
    "shift_div": 8,
    "window": 1,
    "boundary_only": False,
    "segment": None,
    "heads": HEADS if split == "heads" else None,
  }
  options = defaults | options
  if mix == "x":
    x = oracles.mix(x, **options)
  q, k, v = oracles.project(tiny.attention(), x)
  mixed = [
    oracles.mix(part, **options) if name in mix else part
    for name, part in (("k", k), ("v", v))
  ]
  segment = options["segment"] or T
  y = np.zeros(x.shape)
  for b in range(B):
    for t in range(T):
      keys, values = (list(part[b, t]) for part in mixed)
      for other in range(T):
        if summary_tokens and other // segment == t // segment:
          keys.append(sum(k[b, other, 1:]) / (N - 1))
          values.append(sum(v[b, other, 1:]) / (N - 1))
      y[b, t] = oracles.attend(q[b, t], keys, values, HEADS)
  return oracles.linear(tiny.attention().proj, y)


def test_mixing_equals_the_loop():
  plugs = [Mixing(SHAPE, **options) for options in MIXINGS]
  x = tiny.tokens()
  attention = tiny.attention()
  ours = oracles.jit(
    lambda x: [attention(x, plug, GRID, **EVAL) for plug in plugs]
  )(x)
  for options, y in zip(MIXINGS, ours, strict=True):
    np.testing.assert_allclose(
      y, naive_mixing(x, **options), atol=1e-5, err_msg=str(options)
    )


def test_a_head_whose_frame_does_not_exist_gives_zero():
  # f = 24 / 4 channels are one head: heads 0 and 1 see t + 1 and t - 1 only.
  plug = Mixing(SHAPE, shift_div=4)

  @oracles.jit
  def run(q, k, v):
    return attend(*plug.qkv(q, k, v, GRID), heads=HEADS)

  q, k, v = (tiny.tokens(seed) for seed in range(3))
  y = np.asarray(run(q, k, v)).reshape(B, T, N, HEADS, -1)
  assert (y[:, -1, :, 0] == 0).all()
  assert (y[:, 0, :, 1] == 0).all()
  assert (y[:, :-1, :, 0] != 0).all()
  assert (y[:, 1:, :, 1] != 0).all()
  for head, source in ((0, 2), (1, 0), (2, 1), (3, 1)):  # of frame 1
    channels = slice(6 * head, 6 * head + 6)
    want = oracles.attend_frames(
      q[:, 1:2, :, channels],
      k[:, source : source + 1, :, channels],
      v[:, source : source + 1, :, channels],
      1,
    )
    np.testing.assert_allclose(y[:, 1, :, head], want[:, 0], atol=1e-6)


def test_mixing_leaves_queries_and_its_inputs_alone():
  q, k, v = (jnp.asarray(tiny.tokens(seed)) for seed in range(3))
  mixed = Mixing(SHAPE, mix="v").qkv(q, k, v, GRID)
  assert mixed[0] is q
  assert mixed[1] is k
  assert mixed[2] is not v


def test_summaries_add_one_key_for_each_frame():
  x = jax.ShapeDtypeStruct((B, T, N, C), jnp.float32)
  for segment in (None, 2):
    plug = Mixing(SHAPE, summary_tokens=True, segment=segment)
    joined = jax.eval_shape(lambda x, plug=plug: plug.qkv(x, x, x, GRID), x)
    keys = (B, T, N + (segment or T), C)
    assert [y.shape for y in joined] == [x.shape, keys, keys]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mix": "q"}, "mix is 'q'; use one of 'kv', 'k', 'v', 'x', 'none'"),
    ({"split": "both"}, "split is 'both'; use one of 'channels', 'heads'"),
    ({"window": -2}, "mixing window is -2"),
  ],
)
def test_mixing_errors(options, message):
  with pytest.raises(ValueError, match=message):
    Mixing(SHAPE, **options)
