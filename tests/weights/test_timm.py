"""Logits of timm's image models, and of ours with their weights."""

import jax
import numpy as np
import pytest

from tests import oracles
from tests.weights.sources import abstract
from tests.weights.timm_models import random_model
from vidjax.models.resnet import ResNet
from vidjax.models.swin import Swin
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.weights.convert import convert

AVERAGE = {"kind": "average", "init_std": 0.02}
NONE = {"op": "none"}
LEAP = {"op": "leap", "levels": (None,), "shift": "none"}
FRAMES = {"temporal": NONE, "temporal_positions": 0, "head": AVERAGE}
TINY_VIT = FRAMES | {"image_size": 64, "dim": 192, "heads": 3}
TINY_VISFORMER = {"image_size": 64, "stem_width": 16, "dim": 192, "heads": 3}
SWIN = {
  "patch_size": (1, 4, 4),
  "bias_frames": 1,
  "temporal": NONE,
  "head": AVERAGE,
}
TINY_SWIN = SWIN | {
  "image_size": 56,
  "dim": 16,
  "depths": (2, 2),
  "heads": (2, 4),
}
RESNET = {"blocks": ("B",) * 4, "temporal": NONE, "dual_head": False}
slow = pytest.mark.slow


def still(images):
  return images[:, None]


def third_of_four(images):
  """What SIFA's stem sees of image weights."""
  frames = [np.full_like(images, 7)] * 2
  return np.stack([*frames, images, frames[0]], axis=1)


# timm's name and options; our class and options; the clip; images' size.
CASES = [
  pytest.param(
    ("visformer_tiny", {"img_size": 64}),
    (Visformer, TINY_VISFORMER | {"temporal": NONE}),
    still,
    64,
    id="visformer_tiny",
  ),
  pytest.param(
    ("visformer_tiny", {"img_size": 64}),
    (Visformer, TINY_VISFORMER | {"temporal": LEAP}),
    still,
    64,
    id="visformer_tiny without leaps",
  ),
  pytest.param(
    ("vit_tiny_patch16_224", {"img_size": 64}),
    (ViT, TINY_VIT),
    still,
    64,
    id="vit_tiny",
  ),
  pytest.param(
    (
      "swin_tiny_patch4_window7_224",
      {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    (Swin, TINY_SWIN),
    still,
    56,
    id="swin of two stages",
  ),
  pytest.param(
    ("resnet50", {"layers": (1, 1, 2, 1)}),
    (ResNet, RESNET | {"depths": (1, 1, 2, 1)}),
    third_of_four,
    64,
    id="resnet of five blocks",
  ),
  pytest.param(
    ("vit_base_patch16_224", {}),
    (ViT, FRAMES),
    still,
    224,
    id="vit_base",
    marks=slow,
  ),
  pytest.param(
    ("swin_tiny_patch4_window7_224", {}),
    (Swin, SWIN),
    still,
    224,
    id="swin_tiny",
    marks=slow,
  ),
  pytest.param(
    ("visformer_small", {}),
    (Visformer, {"temporal": NONE}),
    still,
    224,
    id="visformer_small",
    marks=slow,
  ),
  pytest.param(
    ("resnet50", {}),
    (ResNet, RESNET),
    third_of_four,
    224,
    id="resnet50",
    marks=slow,
  ),
]


@pytest.mark.parametrize(("theirs", "ours", "clip", "size"), CASES)
def test_logits_of_images(theirs, ours, clip, size):
  name, options = theirs
  state, logits = random_model(name, size, num_classes=7, **options)
  make, options = ours
  model = abstract(make, 7, **options)
  converted = convert(state, model)
  assert not converted.report.fresh
  images = oracles.normal(2, size, size, 3)
  definition = split(model)[0]

  @jax.jit
  def run(params, stats, video):
    return merge(definition, params, stats)(video)

  got = run(converted.params, converted.stats, clip(images))
  want = logits(images)
  scale = np.abs(want).max()
  np.testing.assert_allclose(got, want, atol=1e-5 * scale)
