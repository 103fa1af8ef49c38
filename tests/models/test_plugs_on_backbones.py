"""Every temporal operation in every backbone that it makes sense in."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.models.visformer import Visformer
from vidjax.nn.functional import merge, split

ORDER = [2, 0, 3, 1]  # of the frames; no rotation


@dataclasses.dataclass(frozen=True)
class Pair:
  """An operation, a backbone, and whether it tells the frames' order."""

  backbone: str
  temporal: dict[str, Any]
  ordered: bool
  options: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __str__(self):
    return f"{self.temporal['op']} on {self.backbone} {self.options or ''}"


NONE = {"op": "none"}
MIXING = {"op": "mixing", "shift_div": 4}
CHANNELS = {"op": "channel_shift"}
PATCHES = {"op": "patch_shift"}
TOKENS = {"op": "token_shift"}
JOINT = {"op": "joint"}
DIVIDED = {"op": "divided"}
LEAP = {"op": "leap", "levels": (1, 2)}
LEAP_ALONE = LEAP | {"shift": "none"}
PAIRS = [
  Pair("vit", NONE, ordered=False),
  Pair("vit", MIXING, ordered=True),
  Pair("vit", CHANNELS, ordered=True),
  Pair("vit", PATCHES, ordered=True),
  Pair("vit", TOKENS, ordered=True),
  Pair("vit", JOINT, ordered=False),
  Pair("vit", DIVIDED, ordered=False),
  Pair("vit", LEAP, ordered=True),
  Pair("swin", NONE, ordered=False),
  Pair("swin", MIXING, ordered=True),
  Pair("swin", CHANNELS, ordered=True),
  Pair("swin", PATCHES, ordered=True),
  Pair("swin", DIVIDED, ordered=False),
  Pair("swin", NONE, ordered=True, options={"window": (2, 3, 3)}),
  Pair("visformer", NONE, ordered=False),
  Pair("visformer", MIXING, ordered=True),
  Pair("visformer", CHANNELS, ordered=True),
  Pair("visformer", PATCHES, ordered=True),
  Pair("visformer", JOINT, ordered=False),
  Pair("visformer", DIVIDED, ordered=False),
  Pair("visformer", LEAP, ordered=True),
  # It tells which frames are paired, though not which way time runs.
  Pair("visformer", LEAP_ALONE, ordered=True),
]
VISFORMER = {
  "image_size": 48,
  "stem_width": 4,
  "dim": 16,
  "depths": (1, 2, 2),
  "heads": 2,
  "conv_groups": 4,
}
# Backbones that know no time of their own: what tells the order is the plug,
# or the bias of windows of several frames.
BACKBONES = {
  "vit": functools.partial(tiny.vit, temporal_positions=0),
  "swin": functools.partial(tiny.swin, bias_frames=1, depths=(2,), heads=(2,)),
  "visformer": functools.partial(
    oracles.build, Visformer, tiny.CLASSES, scale=0.15, **VISFORMER
  ),
}
SIDES = {"vit": 24, "swin": 24, "visformer": 48}


@functools.cache
def run(index):
  """Of a pair: logits, twice, those of permuted frames, and gradients."""
  pair = PAIRS[index]
  model = BACKBONES[pair.backbone](temporal=pair.temporal, **pair.options)
  definition, params, stats = split(model)

  def loss(params, video):
    logits = merge(definition, params, stats)(video)
    return (logits**2).mean(), logits

  compiled = oracles.jit(jax.grad(loss, has_aux=True))
  side = SIDES[pair.backbone]
  video = tiny.video(4, side, side)
  gradients, logits = compiled(params, video)
  _, again = compiled(params, video)
  _, permuted = compiled(params, video[:, ORDER])
  return *map(np.asarray, (logits, again, permuted)), gradients


each = pytest.mark.parametrize("index", range(len(PAIRS)), ids=map(str, PAIRS))


@each
def test_runs_and_is_deterministic(index):
  logits, again, _, _ = run(index)
  assert logits.shape == (2, tiny.CLASSES)
  assert np.isfinite(logits).all()
  assert np.abs(logits[0] - logits[1]).max() > 1e-3  # clips differ
  np.testing.assert_array_equal(logits, again)


@each
def test_trains_every_parameter(index):
  gradients = run(index)[-1]
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@each
def test_order_of_frames(index):
  logits, _, permuted, _ = run(index)
  change = np.abs(logits - permuted).max() / max(1, np.abs(logits).max())
  if PAIRS[index].ordered:
    assert change > 1e-3
  else:
    assert change < 3e-5


def test_operations_differ():
  """On one backbone, of one seed, no two pairs give the same logits."""
  for backbone in BACKBONES:
    results = [
      run(i)[0] for i, pair in enumerate(PAIRS) if pair.backbone == backbone
    ]
    for i, logits in enumerate(results):
      for other in results[:i]:
        assert np.abs(logits - other).max() > 1e-3


@pytest.mark.parametrize(
  ("temporal", "options", "message"),
  [
    (
      TOKENS,
      {},
      "token_shift moves one class token, but this backbone has 0; use "
      "channel_shift instead",
    ),
    (
      JOINT,
      {},
      r"JointAttention makes keys of shape .* from tokens of shape .*, which "
      "attention in windows cannot follow; use it on a ViT, or windows that",
    ),
    (
      LEAP,
      {},
      r"LeapAttention makes keys of shape .* use it on a ViT",
    ),
    (
      MIXING | {"summary_tokens": True},
      {},
      r"Mixing makes keys of shape .* use it on a ViT",
    ),
    (
      CHANNELS,
      {"window": (2, 3, 3)},
      r"windows of 2 frames attend over time themselves, so temporal\.op="
      r"'channel_shift' has no place in them; use .* windows of one frame",
    ),
    (
      PATCHES,
      {"window": (2, 3, 3)},
      r"temporal\.op='patch_shift' has no place",
    ),
    (DIVIDED, {"window": (2, 3, 3)}, r"temporal\.op='divided' has no place"),
    (MIXING, {"window": (2, 3, 3)}, r"temporal\.op='mixing' has no place"),
    (JOINT, {"window": (2, 3, 3)}, r"temporal\.op='joint' has no place"),
  ],
)
def test_pairs_that_make_no_sense(temporal, options, message):
  video = jax.ShapeDtypeStruct((1, 4, 24, 24, 3), "float32")
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(BACKBONES["swin"](temporal=temporal, **options), video)
  assert "\n" not in str(error.value)
