import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EVAL, GRID, HEADS, SHAPE, B, C, N, T
from vidjax.nn.channel_shift import ChannelShift, TokenShift
from vidjax.nn.temporal import Grid


@pytest.mark.parametrize("fold_div", [3, 5, 8])
def test_channel_shift(fold_div):
  x = tiny.tokens()
  shifted = oracles.shift(x, (1, -1), C // fold_div)
  y = oracles.attend_frames(*oracles.project(tiny.attention(), shifted), HEADS)
  plug = ChannelShift(SHAPE, fold_div=fold_div)
  np.testing.assert_allclose(
    oracles.call(tiny.attention(), x, plug, GRID, **EVAL),
    oracles.linear(tiny.attention().proj, y),
    atol=1e-5,
  )


def naive_head_shift(x, fold_div, offsets, border):
  """Channel j of each head, by its number in the head."""
  y = np.array(x)
  width = C // HEADS
  fold = width // fold_div
  for t in range(T):
    for c in range(C):
      group = (c % width) // fold if fold else len(offsets)
      if group < len(offsets):
        source = t + offsets[group]
        inside = 0 <= source < T
        if inside or border == "zero":
          y[:, t, :, c] = x[:, source, :, c] if inside else 0
  return y


@pytest.mark.parametrize(
  ("fold_div", "offsets", "border"),
  [
    (3, (-1, 1), "keep"),
    (3, (-1, 1), "zero"),
    (6, (1, -1), "keep"),
    (2, (-2, 9), "keep"),  # 9: beyond the clip
    (7, (-1, 1), "keep"),  # heads of 6 channels have no seventh part
  ],
)
def test_channel_shift_of_every_head(fold_div, offsets, border):
  plug = ChannelShift(
    SHAPE, fold_div=fold_div, offsets=offsets, split="heads", border=border
  )
  x = tiny.tokens()
  shifted = oracles.jit(lambda x: plug.tokens(x, GRID))(x)
  want = naive_head_shift(x, fold_div, offsets, border)
  assert (want == x).all() == (fold_div == 7)
  np.testing.assert_array_equal(shifted, want)


def test_one_frame_keeps_its_channels():
  plug = ChannelShift(SHAPE, fold_div=2, split="heads", border="keep")
  x = tiny.tokens()[:, :1]
  np.testing.assert_array_equal(plug.tokens(jnp.asarray(x), GRID), x)


def test_channels_do_not_come_back():
  plug = ChannelShift(SHAPE)
  x = jnp.asarray(tiny.tokens())
  assert plug.output(x, GRID, T) is x


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"split": "head"}, "split is 'head'; use one of 'channels', 'heads'"),
    ({"border": "wrap"}, "border is 'wrap'; use one of 'zero', 'keep'"),
    ({"fold_div": 1}, "fold_div is 1; use 2 or more"),
    ({"fold_div": 2, "offsets": (1, 2, 3)}, "fold_div is 2; use 3 or more"),
  ],
)
def test_channel_shift_errors(options, message):
  with pytest.raises(ValueError, match=message):
    ChannelShift(SHAPE, **options)


@pytest.mark.parametrize("fold_div", [4, 5])
def test_token_shift_block(fold_div):
  block = oracles.build(
    tiny.make_block, {"op": "token_shift", "fold_div": fold_div}
  )
  x = tiny.tokens()

  def shift(x):
    y = np.array(x, np.float64)
    f = C // fold_div
    for t in range(T):
      y[:, t, 0, :f] = x[:, t + 1, 0, :f] if t + 1 < T else 0
      y[:, t, 0, f : 2 * f] = x[:, t - 1, 0, f : 2 * f] if t else 0
    return y

  # Zhang et al. 2021: the skip paths carry the shifted token.
  want = shift(x)
  want = want + tiny.attention_unit(block.attention, block.norm1, want)
  want = shift(want)
  want = want + tiny.mlp_unit(block, want)
  np.testing.assert_allclose(
    oracles.call(block, x, GRID, **EVAL), want, atol=3e-5
  )


@pytest.mark.parametrize("classes", [0, 2])
def test_token_shift_needs_one_class_token(classes):
  with pytest.raises(ValueError, match=f"but this backbone has {classes}"):
    TokenShift(SHAPE).before(
      jnp.zeros((B, T, N, C)), Grid(classes, 1, 7), **EVAL
    )
