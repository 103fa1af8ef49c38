import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.models import tiny
from vidjax.explain.intermediates import intermediates
from vidjax.explain.layers import (
  Layout,
  Query,
  attention_layers,
  interframe_layers,
  layout_of,
  pick,
)
from vidjax.explain.space_time import attention_of, space_time
from vidjax.models.registry import create_model
from vidjax.nn.temporal import Grid
from vidjax.ops.patch_shift import PATTERNS

T, SIDE, HEADS = 4, 4, 3
N = 1 + SIDE * SIDE


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def layer_of(model, name):
  return {one.name: one for one in attention_layers(model)}[name]


def weights_of(model, video, layer):
  names = [f"{layer.name}.weights", f"{layer.block_name}.grid"]
  weights, grid = intermediates(model, video, names).values()
  return weights, layout_of(layer, grid)


def vit_case(plug, name="blocks.1.attention"):
  model = tiny.vit(temporal=plug)
  layer = layer_of(model, name)
  return layer, *weights_of(model, jnp.asarray(tiny.video(T, batch=1)), layer)


def check(layer, layout, weights, query, head, expected, lost=0.0):
  """`expected` is (t, n), class tokens first."""
  (found,) = space_time(layer, layout, weights, query, (head,)).values()
  classes = layout.grid.class_tokens
  np.testing.assert_allclose(found.classes, expected[:, :classes], atol=1e-6)
  np.testing.assert_allclose(
    found.patches.reshape(layout.frames, -1), expected[:, classes:], atol=1e-6
  )
  assert found.outside == pytest.approx(lost, abs=1e-5)
  assert found.frames.sum() + found.outside == pytest.approx(1, abs=1e-5)
  np.testing.assert_array_equal(
    found.reach.reshape(layout.frames, -1), expected[:, classes:] > 0
  )


@pytest.mark.parametrize("per_head", [False, True])
def test_mixed_heads_look_at_the_frames_of_their_channels(per_head):
  """X-ViT, Eq. 9: channel by channel, +1, -1, +2, -2 and its own frame."""
  plug = {
    "op": "mixing",
    "window": 2,
    "shift_div": 3,
    "split": "heads" if per_head else "channels",
  }
  layer, weights, layout = vit_case(plug)
  d = 24 // HEADS
  size = d if per_head else 24
  width = 2 * size // (3 * 4)
  for frame, head in ((0, 0), (2, 0), (2, 1), (3, 2)):
    expected, lost = np.zeros((T, N)), 0.0
    for c in range(head * d, (head + 1) * d):
      group = (c % d if per_head else c) // width
      source = frame + ((1, -1, 2, -2)[group] if group < 4 else 0)
      for m in range(N):
        share = float(weights[0, frame, head, 6, m]) / d
        if 0 <= source < T:
          expected[source, m] += share
        else:
          lost += share
    query = Query(frame, (1, 1))  # token 1 + 4 + 1
    check(layer, layout, weights, query, head, expected, lost)


def test_the_mean_of_heads():
  layer, weights, layout = vit_case({"op": "mixing"})
  query = Query(1, None)
  found = space_time(layer, layout, weights, query, (None, 0, 1, 2))
  mean = np.mean([found[head].patches for head in range(3)], axis=0)
  np.testing.assert_allclose(found[None].patches, mean, atol=1e-6)


def test_pairs_of_frames():
  """LAPS, level 1 of 4 frames: 0 with 2, 1 with 3."""
  layer, weights, layout = vit_case({"op": "leap", "levels": [1]})
  for frame, pair, second in ((0, 0, 0), (3, 1, 1)):
    expected = np.zeros((T, N))
    row = weights[0, pair, 2, second * N + 9]
    for m in range(N):
      expected[pair, m] += row[m]
      expected[pair + 2, m] += row[N + m]
    query = Query(frame, (2, 0))
    check(layer, layout, weights, query, 2, expected)


def test_joint_attention_and_none():
  layer, weights, layout = vit_case({"op": "joint"})
  expected = np.asarray(weights[0, 0, 1, 2 * N]).reshape(T, N)
  check(layer, layout, weights, Query(2, None), 1, expected)
  layer, weights, layout = vit_case({"op": "none"})
  expected = np.zeros((T, N))
  expected[3] = weights[0, 3, 1, N - 1]
  check(layer, layout, weights, Query(3, (3, 3)), 1, expected)


def test_divided_attention_follows_a_position_in_time():
  plug = {"op": "divided"}
  layer, weights, layout = vit_case(plug, "blocks.0.temporal.attention")
  track = 2 * SIDE + 3
  expected = np.zeros((T, N))
  for t in range(T):
    expected[t, 1 + track] = weights[0, track, 2, 1, t]
  check(layer, layout, weights, Query(1, (2, 3)), 2, expected)
  with pytest.raises(ValueError, match=r"without the class token; ask at a"):
    space_time(layer, layout, weights, Query(1, None))
  layer, weights, layout = vit_case(plug, "blocks.0.attention")
  expected = np.zeros((T, N))
  expected[1] = weights[0, 1, 2, 0]
  check(layer, layout, weights, Query(1, None), 2, expected)


def test_channels_of_tokens_count_in_proportion():
  """TSM ahead of q, k, v: an eighth of the channels from either side."""
  plug = {"op": "channel_shift", "fold_div": 8}
  layer, weights, layout = vit_case(plug)
  row = np.asarray(weights[0, 0, 1, 4])
  expected = np.zeros((T, N))
  expected[0], expected[1] = row * 6 / 8, row / 8
  check(layer, layout, weights, Query(0, (0, 3)), 1, expected, 1 / 8)


@pytest.mark.parametrize("side", [6, 5])
def test_shifted_patches_in_a_shifted_window(side):
  """TPS: position i of a window holds frame t - offset(i) (Figure 5)."""
  window, shift = 3, 1
  model = tiny.swin(
    temporal={"op": "patch_shift", "schedule": "all_patch"},
  )
  video = jnp.asarray(tiny.swin_video(T, 4 * side, 4 * side, batch=1))
  layer = layer_of(model, "stages.0.blocks.1.attention")
  weights, layout = weights_of(model, video, layer)
  assert layout == Layout(T, Grid(0, side, side))
  whole = 6
  pattern = np.array(PATTERNS["c9"])

  def rolled(y):
    return (y - shift) % whole

  def part(y):
    """Before the last window, in it, or rolled round."""
    return (rolled(y) >= whole - window) + (rolled(y) >= whole - shift)

  def offset(y, x):
    return pattern[rolled(y) % window % 3, rolled(x) % window % 3]

  def place(y, x):
    return rolled(y) % window * window + rolled(x) % window

  for frame, row, column in ((0, 0, 0), (2, 3, 4), (3, 4, 1)):
    of = rolled(row) // window * 2 + rolled(column) // window
    now = (frame + offset(row, column)) % T
    expected, lost = np.zeros((T, side * side)), 0.0
    for y, x in np.ndindex(whole, whole):
      if rolled(y) // window * 2 + rolled(x) // window != of:
        continue
      if (part(y), part(x)) != (part(row), part(column)):
        continue
      share = float(weights[of, now, 1, place(row, column), place(y, x)])
      source = (now - offset(y, x)) % T
      if y < side and x < side:
        expected[source, y * side + x] += share
      else:
        lost += share
    asked = Query(frame, (row, column))
    check(layer, layout, weights, asked, 1, expected, lost)


def test_windows_of_several_frames():
  model = tiny.swin(temporal={"op": "none"}, window=(2, 3, 3), bias_frames=1)
  video = jnp.asarray(tiny.swin_video(T, batch=1))
  layer = layer_of(model, "stages.0.blocks.0.attention")
  weights, layout = weights_of(model, video, layer)
  # Frame 3, row 1, column 4: the second window of the first row, frames 2, 3.
  expected = np.zeros((T, 6, 6))
  row = np.asarray(weights[1, 1, 0, 9 + 3 + 1]).reshape(2, 3, 3)
  expected[2:, :3, 3:] = row
  check(layer, layout, weights, Query(3, (1, 4)), 0, expected.reshape(T, 36))


def test_the_head_looks_at_frames():
  model = tiny.vit(head=tiny.ATTENTION)
  video = jnp.asarray(tiny.video(T, batch=1))
  layer = layer_of(model, "head.blocks.0.attention")
  assert attention_layers(model)[-1] == layer
  look = attention_of(model, video, layer, heads=(1,))
  weights, _ = weights_of(model, video, layer)
  assert look.query == Query(0, None)
  np.testing.assert_allclose(
    look.heads[1].patches[:, 0, 0], weights[0, 0, 1, 0, 1:], atol=1e-6
  )
  own = float(weights[0, 0, 1, 0, 0])
  assert look.heads[1].outside == pytest.approx(own, abs=1e-5)
  expected = oracles.call(model, video)
  np.testing.assert_allclose(look.logits, expected, atol=1e-5)
  look = attention_of(model, video, layer, query=Query(2, (0, 0)), heads=(0,))
  np.testing.assert_allclose(
    look.heads[0].patches[:, 0, 0], weights[0, 0, 0, 3, 1:], atol=1e-6
  )
  with pytest.raises(ValueError, match="there is no frame 4; the layer has 4"):
    attention_of(model, video, layer, query=Query(4, (0, 0)))


def test_errors_name_what_there_is():
  layer, weights, layout = vit_case({"op": "none"})
  with pytest.raises(ValueError, match=r"no head 3; it has 3, counted from 0"):
    space_time(layer, layout, weights, Query(0, None), (3,))
  with pytest.raises(ValueError, match="no frame 4; the layer has 4 frames"):
    space_time(layer, layout, weights, Query(4, None))
  with pytest.raises(ValueError, match="no token in row 4, column 0; each"):
    space_time(layer, layout, weights, Query(0, (4, 0)))
  with pytest.raises(ValueError, match="the layer has no class token"):
    Layout(1, Grid(0, 6, 6)).locate(Query(0, None))


def test_layers_by_name_and_number():
  names = [one.name for one in attention_layers(tiny.vit())]
  assert names == ["blocks.0.attention", "blocks.1.attention"]
  assert pick(None, names) == pick("-1", names) == names[1]
  assert pick("blocks.0", names) == pick("0", names) == names[0]
  assert pick(names[1], names) == names[1]
  for wrong in ("2", "blocks.5", "attention"):
    with pytest.raises(
      ValueError,
      match=f"there is no layer '{wrong}'; use one of 0 blocks.0.attention, 1",
    ):
      pick(wrong, names)
  both = ["blocks.0.temporal.attention", "blocks.0.attention"]
  with pytest.raises(ValueError, match=r"several layers are 'blocks.0'"):
    pick("blocks.0", both)


def test_models_without_one_kind_of_attention():
  model = nnx.eval_shape(lambda: create_model("c2d_motion"))
  sifa = nnx.eval_shape(lambda: create_model("sifa_motion"))
  with pytest.raises(ValueError, match="a ResNet has no softmax attention"):
    attention_layers(model)
  with pytest.raises(ValueError, match="no inter-frame attention, so there"):
    interframe_layers(model)
  assert list(interframe_layers(sifa)) == [
    "dual_stage.1.temporal.attention",
    "stages.1.1.temporal.attention",
    "stages.2.1.temporal.attention",
    "stages.3.1.temporal.attention",
  ]
