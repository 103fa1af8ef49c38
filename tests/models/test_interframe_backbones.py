"""SIFA as a plug of the backbones with attention."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.models.visformer import Visformer

PLUG = {
  "op": "interframe",
  "places": "all",
  "convolve": False,
  "norm": False,
}


def visformer():
  return oracles.build(
    Visformer,
    tiny.CLASSES,
    image_size=48,
    stem_width=4,
    dim=16,
    depths=(1, 1, 1),
    heads=2,
    conv_groups=4,
    temporal=PLUG,
    scale=0.15,
  )


# How to build it, its frames' size, and how far ahead its features look: ViT's
# are those of the class token, which sees only what blocks before received.
BACKBONES = {
  "vit": (lambda: tiny.vit(temporal=PLUG), tiny.IMAGE, 1),
  "swin": (
    lambda: tiny.swin(
      temporal=PLUG,
      depths=(1, 1),
      bias_frames=1,
      patch_norm=False,
      init_std=0.1,
    ),
    tiny.SWIN_IMAGE,
    2,
  ),
  "visformer": (visformer, 48, 2),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_each_block_looks_one_frame_ahead(name):
  make, size, ahead = BACKBONES[name]
  model = make()
  video = oracles.normal(2, 4, size, size, 3)
  run = oracles.jit(lambda video: model.features(video))
  y = np.asarray(run(jnp.asarray(video)))
  for frame in range(4):
    changed = video.copy()
    changed[:, frame] = 1 - changed[:, frame]
    moved = np.abs(np.asarray(run(jnp.asarray(changed))) - y).max(axis=(0, 2))
    seeing = range(max(frame - ahead, 0), frame + 1)
    assert np.flatnonzero(moved > 1e-6).tolist() == list(seeing), moved
