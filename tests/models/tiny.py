"""A ViT small enough to compile in a second, and its inputs."""

import functools
import json

from tests import oracles
from vidjax.models.vit import ViT

IMAGE, PATCH, DIM, HEADS, CLASSES = 32, 8, 24, 3, 5
AVERAGE = {"kind": "average"}
ATTENTION = {"kind": "temporal_attention", "heads": HEADS}


def vit(**options):
  """A ViT with random, non-trivial weights. Do not change it."""
  return _vit(json.dumps(options))


@functools.cache
def _vit(options):
  defaults = {
    "image_size": IMAGE,
    "patch_size": PATCH,
    "dim": DIM,
    "depth": 2,
    "heads": HEADS,
    "mlp_ratio": 2.0,
    "head": AVERAGE,
  }
  return oracles.build(ViT, CLASSES, **defaults | json.loads(options))


def video(frames=4, height=IMAGE, width=IMAGE, batch=2, seed=0):
  return oracles.normal(batch, frames, height, width, 3, seed=seed)
