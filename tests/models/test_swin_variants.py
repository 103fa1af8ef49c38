"""Table 2 of TPS (Xiang et al. 2022): every row is an option."""

import jax
import pytest
from flax import nnx

from tests.models import tiny
from vidjax.models.cost import multiply_adds
from vidjax.models.registry import create_model
from vidjax.models.swin import Swin
from vidjax.nn.channel_shift import ChannelShift
from vidjax.nn.patch_shift import PatchShift
from vidjax.nn.temporal import Temporal
from vidjax.ops.patch_shift import PATTERNS

FOUR_STAGES = tiny.SWIN | {
  "depths": (2, 2, 2, 2),
  "heads": (1, 2, 4, 8),
  "window": (1, 2, 2),
}
PATCH_ONLY = {"op": "patch_shift", "schedule": "patch_only"}


def plugs(temporal, **options):
  """The plugs of every stage of a model."""
  model = nnx.eval_shape(
    lambda: Swin(
      tiny.CLASSES,
      **FOUR_STAGES | options,
      temporal=temporal,
      rngs=nnx.Rngs(0),
    )
  )
  return [[block.temporal for block in s.blocks] for s in model.stages]


def kinds(stages):
  return [[type(plug) for plug in stage] for stage in stages]


def everywhere(even, odd):
  return [[even, odd] * (depth // 2) for depth in FOUR_STAGES["depths"]]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_distributions_and_patterns(pattern):  # (a), (b)
  stages = plugs(PATCH_ONLY | {"pattern": pattern})
  assert kinds(stages) == everywhere(Temporal, PatchShift)
  for stage in stages:
    for plug in stage[1::2]:
      assert isinstance(plug, PatchShift)
      assert plug.pattern == PATTERNS[pattern]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_stages(count):  # (c)
  chosen = tuple(range(count))
  stages = plugs(PATCH_ONLY | {"stages": chosen})
  with_patches = everywhere(Temporal, PatchShift)[:count]
  without = everywhere(Temporal, Temporal)[count:]
  assert kinds(stages) == with_patches + without


@pytest.mark.parametrize(
  ("row", "shift_back", "every_block", "shifted_bias"),
  [
    ({"shift_back": False}, False, False, True),
    ({"schedule": "all_patch"}, True, True, True),
    ({"shifted_bias": False}, True, False, False),
    ({}, True, False, True),
  ],
)
def test_parts(row, shift_back, every_block, shifted_bias):  # (d)
  stages = plugs(PATCH_ONLY | row)
  even = PatchShift if every_block else Temporal
  assert kinds(stages) == everywhere(even, PatchShift)
  for stage in stages:
    for plug in stage[1::2]:
      assert isinstance(plug, PatchShift)
      assert plug.shift_back == shift_back
      assert plug.shifted_bias == shifted_bias


@pytest.mark.parametrize(
  ("temporal", "even", "odd"),
  [
    ({"op": "none"}, Temporal, Temporal),  # "avgpool"
    (
      {"op": "patch_shift", "schedule": "channel_only"},
      ChannelShift,
      ChannelShift,
    ),
    (PATCH_ONLY, Temporal, PatchShift),
    ({"op": "patch_shift"}, ChannelShift, PatchShift),  # "PST"
  ],
)
def test_attentions(temporal, even, odd):  # (e)
  assert kinds(plugs(temporal)) == everywhere(even, odd)


@pytest.mark.parametrize(
  ("frames", "gigas"),
  [(8, 72.07 + 7 * 2.242), (16, 72.07 + 15 * 2.242)],
)
def test_joint_and_local_attention_cost_what_the_paper_says(frames, gigas):
  """88 and 106 G: of 72, only the products of attention grow with them."""
  model = nnx.eval_shape(
    lambda: create_model(
      "swin_t_k400", window=(frames, 7, 7), temporal={"op": "none"}
    )
  )
  video = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), "float32")
  assert multiply_adds(model, video) / 1e9 == pytest.approx(gigas, abs=0.02)
