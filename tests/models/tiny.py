"""A ViT and a Swin small enough to compile in a second, and inputs."""

import functools
import json

from tests import oracles
from vidjax.models.swin import Swin
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


# Two stages, of 6 x 6 and 3 x 3 tokens, in windows of 3 x 3.
SWIN_IMAGE = 24
SWIN = {
  "image_size": SWIN_IMAGE,
  "patch_size": (1, 4, 4),
  "dim": 16,
  "depths": (2, 2),
  "heads": (2, 4),
  "window": (1, 3, 3),
  "mlp_ratio": 2.0,
  "bias_frames": 4,
  "dropout_rate": 0.0,
  "drop_path": 0.0,
}


def swin(**options):
  """A Swin with random, non-trivial weights. Do not change it."""
  return _swin(json.dumps(options))


@functools.cache
def _swin(options):
  return oracles.build(Swin, CLASSES, **SWIN | json.loads(options))


def swin_video(frames=4, height=SWIN_IMAGE, width=SWIN_IMAGE, batch=2, seed=0):
  return video(frames, height, width, batch, seed)


def video(frames=4, height=IMAGE, width=IMAGE, batch=2, seed=0):
  return oracles.normal(batch, frames, height, width, 3, seed=seed)
