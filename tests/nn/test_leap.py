import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EVAL, GRID, HEADS, SHAPE, B, C, N, T
from vidjax.nn.leap import LeapAttention
from vidjax.nn.temporal import Temporal


def naive(x, *, level, shift, fold_div):
  """Sections "leap attention" and "periodic shift", frame by frame."""
  q, k, v = oracles.project(tiny.attention(), x)
  y = np.zeros(x.shape)
  for t in range(T):
    frames = [t]
    if level is not None:
      leap = T // 2**level
      frames = [t, t - leap if t // leap % 2 else t + leap]
    for b in range(B):
      keys = np.concatenate([k[b, other] for other in frames])
      values = np.concatenate([v[b, other] for other in frames])
      y[b, t] = oracles.attend(q[b, t], keys, values, HEADS)
  width = {"periodic": C // HEADS, "plain": C, "none": 0}[shift]
  shifted = y.copy()
  for c in range(C):
    f = width // fold_div
    part = c % width // f if width else 2
    if part < 2:
      for t in range(T):
        source = t + (1, -1)[part]
        shifted[:, t, :, c] = y[:, source, :, c] if 0 <= source < T else 0
  return oracles.linear(tiny.attention().proj, shifted)


CASES = [
  {"level": 1, "shift": "periodic", "fold_div": 3},
  {"level": 2, "shift": "periodic", "fold_div": 2},
  {"level": 2, "shift": "plain", "fold_div": 4},
  {"level": 1, "shift": "none", "fold_div": 4},
  {"level": None, "shift": "periodic", "fold_div": 3},
  {"level": None, "shift": "plain", "fold_div": 3},
]


def plug(level, **options):
  return LeapAttention(SHAPE, 0, levels=(level,), **options)


def attend(x, *plugs):
  module = tiny.attention()
  return oracles.jit(lambda x: [module(x, p, GRID, **EVAL) for p in plugs])(x)


def test_equals_the_loop():
  x = tiny.tokens()
  ours = attend(x, *(plug(**case) for case in CASES))
  for case, y in zip(CASES, ours, strict=True):
    np.testing.assert_allclose(
      y, naive(x, **case), atol=1e-5, err_msg=str(case)
    )


def test_identities():
  x = tiny.tokens()
  inside, none = attend(x, Temporal(), plug(None, shift="none"))
  np.testing.assert_array_equal(inside, none)
  # Frames that are all the same: a partner adds nothing.
  still = np.repeat(x[:, :1], T, axis=1)
  inside, leap = attend(still, Temporal(), plug(1, shift="none"))
  np.testing.assert_allclose(leap, inside, atol=1e-6)
  # Reversed time swaps the frames of the pairs; the shift tells it.
  pairs, laps = plug(1, shift="none"), plug(1)
  forward = attend(x, pairs, laps)
  back = [y[:, ::-1] for y in attend(x[:, ::-1], pairs, laps)]
  np.testing.assert_allclose(back[0], forward[0], atol=1e-6)
  assert np.abs(back[1] - forward[1]).max() > 0.1


def test_levels_are_taken_in_turn():
  levels = [
    LeapAttention(SHAPE, index, levels=(1, 2, None)).level for index in range(7)
  ]
  assert levels == [1, 2, None, 1, 2, None, 1]
  assert [LeapAttention(SHAPE, index).level for index in range(5)] == [
    1,
    2,
    3,
    1,
    2,
  ]


def test_twice_the_scores_whatever_the_level():
  x = jax.ShapeDtypeStruct((B, 8, N, C), jnp.float32)
  for level in (1, 2, 3):
    pairs = jax.eval_shape(
      lambda x, level=level: plug(level).qkv(x, x, x, GRID), x
    )
    assert [y.shape for y in pairs] == [(B, 4, 2 * N, C)] * 3


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"levels": ()}, "levels is empty; give one, or None"),
    ({"levels": (1, 0)}, "levels is 0; use 1 or more"),
    ({"shift": "cyclic"}, "shift is 'cyclic'; use one of 'periodic', 'plain'"),
    ({"fold_div": 1}, "fold_div is 1; use 2 or more"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    LeapAttention(SHAPE, 0, **options)


def test_a_clip_that_cannot_be_paired():
  x = jnp.zeros((B, 6, N, C))
  with pytest.raises(
    ValueError, match=r"level 3 cannot pair 6 frames; .* 1, 2"
  ):
    plug(3).qkv(x, x, x, GRID)
