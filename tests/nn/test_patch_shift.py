import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EVAL, GRID, HEADS, SHAPE, B, C, T
from vidjax.nn.channel_shift import ChannelShift
from vidjax.nn.patch_shift import SCHEDULES, PatchShift, temporal_patch_shift
from vidjax.nn.plugs import make_plugs
from vidjax.nn.temporal import Grid, Temporal
from vidjax.ops.patch_shift import PATTERNS

# The pattern on 2 x 3 patches, and a class token that has no offset.
OFFSETS = [0, -4, 1, 2, -1, 0, 3]


def make(**options):
  defaults = {"pattern": "c9", "shift_back": True, "shifted_bias": True}
  return PatchShift(**defaults | options)


def mixed_frames(module, x, shift_back):
  """Attention among the tokens of each mixed frame, one at a time."""
  q, k, v = oracles.project(module, x)
  y = np.zeros(x.shape)
  for b in range(B):
    for t in range(T):
      members = [((t - s) % T, n) for n, s in enumerate(OFFSETS)]
      rows = ([z[b, f, n] for f, n in members] for z in (q, k, v))
      attended = oracles.attend(*map(np.array, rows), heads=HEADS)
      for (frame, n), row in zip(members, attended, strict=True):
        y[b, frame if shift_back else t, n] = row
  return oracles.linear(module.proj, y)


@pytest.mark.parametrize("shift_back", [True, False])
def test_attention_within_mixed_frames(shift_back):
  module = tiny.attention()
  x = tiny.tokens()
  plug = make(shift_back=shift_back)
  np.testing.assert_allclose(
    oracles.call(module, x, plug, GRID, **EVAL),
    mixed_frames(module, x, shift_back),
    atol=1e-5,
  )


@pytest.mark.parametrize("classes", [0, 1, 2])
def test_class_tokens_stay_in_their_frame(classes):
  grid = Grid(classes, 3, 3)
  x = jnp.asarray(oracles.normal(B, T, classes + 9, C))
  plug = make()
  shifted = plug.tokens(x, grid)
  np.testing.assert_array_equal(shifted[:, :, :classes], x[:, :, :classes])
  moved = (shifted != x).any(axis=(0, 1, 3))[classes:]
  # With four frames the offset -4 is none, like the 0 in the middle, and +4.
  assert moved.tolist() == [n not in (0, 4, 8) for n in range(9)]
  np.testing.assert_array_equal(plug.output(shifted, grid, T), x)


def test_all_channels_of_a_token_move_together():
  """The shift commutes with token-wise layers: before or after is the same."""
  module = tiny.attention()
  x = tiny.tokens()
  plug = make()

  @oracles.jit
  def run(x):
    shifted = plug.tokens(x, GRID)
    return module.proj(shifted), plug.tokens(module.proj(x), GRID)

  before, after = run(x)
  np.testing.assert_allclose(before, after, atol=1e-6)


def test_source_frames():
  want = [[(t - s) % 5 for s in OFFSETS] for t in range(5)]
  np.testing.assert_array_equal(make().source_frames(5, GRID), want)
  own = [[t] * 7 for t in range(5)]
  plain = make(shifted_bias=False)
  np.testing.assert_array_equal(plain.source_frames(5, GRID), own)
  np.testing.assert_array_equal(Temporal().source_frames(5, GRID), own)


KINDS = {
  "pst": [ChannelShift, PatchShift],
  "patch_only": [Temporal, PatchShift],
  "channel_only": [ChannelShift, ChannelShift],
  "all_patch": [PatchShift, PatchShift],
  "none": [Temporal, Temporal],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
  plugs = [
    temporal_patch_shift(SHAPE._replace(place=i), schedule=schedule)
    for i in range(4)
  ]
  assert [type(plug) for plug in plugs] == KINDS[schedule] * 2


@pytest.mark.parametrize(
  ("stages", "chosen"),
  [(None, (0, 1, 2, 3)), ((0,), (0,)), ([1, 3], (1, 3)), ((), ())],
)
def test_stages(stages, chosen):
  options = {"op": "patch_shift", "stages": stages}
  blocks = [SHAPE._replace(stage=i // 2, place=i % 2) for i in range(8)]
  plugs = make_plugs(options, blocks, dtype="float32", rngs=nnx.Rngs(0))
  for block, plug in zip(blocks, plugs, strict=True):
    kinds = KINDS["pst" if block.stage in chosen else "none"]
    assert type(plug) is kinds[block.place]


def test_unknown_stage():
  options = {"op": "patch_shift", "stages": (1, 4)}
  blocks = [SHAPE._replace(stage=i) for i in range(4)]
  message = r"temporal.stages has \[4\], but .* are numbered 0 to 3"
  with pytest.raises(ValueError, match=message):
    make_plugs(options, blocks, dtype="float32", rngs=nnx.Rngs(0))


def test_arguments_reach_the_plugs():
  options = {
    "pattern": ((0, 1), (2, 3)),
    "shift_back": False,
    "shifted_bias": False,
    "border": "zero",
  }
  channel, patch = (
    temporal_patch_shift(SHAPE._replace(place=i), **options) for i in range(2)
  )
  assert isinstance(channel, ChannelShift)
  assert (channel.border, channel.offsets) == ("zero", (-1, 1))
  assert isinstance(patch, PatchShift)
  assert patch.pattern == ((0, 1), (2, 3))
  assert (patch.shift_back, patch.shifted_bias) == (False, False)


def test_defaults_are_the_released_code():
  channel, patch = (
    temporal_patch_shift(SHAPE._replace(place=i)) for i in range(2)
  )
  assert isinstance(channel, ChannelShift)
  assert channel.border == "keep"
  # An eighth of the 6 channels of a head is none; of 32 it is four.
  assert channel.fold == 0
  wide = temporal_patch_shift(SHAPE._replace(dim=96, heads=3))
  assert isinstance(wide, ChannelShift)
  assert (wide.groups, wide.fold) == (3, 4)
  assert isinstance(patch, PatchShift)
  assert patch.pattern == PATTERNS["c9"]
  assert (patch.shift_back, patch.shifted_bias) == (True, True)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"schedule": "tps"}, "schedule is 'tps'; use one of 'pst', 'patch_only'"),
    ({"pattern": "e25"}, "pattern is 'e25'; use one of 'a3', 'b4'"),
    ({"pattern": ((0, 1), (2,))}, "is not a rectangle"),
    ({"border": "wrap"}, "border is 'wrap'; use one of 'zero', 'keep'"),
  ],
)
def test_errors_do_not_wait_for_a_block_that_needs_it(place, options, message):
  with pytest.raises(ValueError, match=message):
    temporal_patch_shift(SHAPE._replace(place=place), **options)
