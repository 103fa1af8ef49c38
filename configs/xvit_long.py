r"""X-ViT-B/16 on 512 frames, split over 8 devices.

Purpose: videos of minutes. Space-time mixing looks one frame ahead and back,
so each device computes 64 frames of a clip and gets two frames' moved channels
from its neighbours in each layer, whatever the length; the temporal attention
head gathers one token of each frame. The recipe is that of
`configs/xvit_k400.py` with one segment of all frames.

Published: nothing; this is ours, and no accuracy was measured.
Hardware: 8 accelerators of 32 GB for every clip of the batch at a time.

    python -m vidjax.main --config=configs/xvit_long.py --workdir=runs/long \\
        --config.data.root=/data/long

`--config.mesh.frames=N` splits clips over N devices, `--config.data.frames=N`
takes other clips; the frames must be a multiple of the devices.
"""

import ml_collections

from configs import common, xvit_k400


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = xvit_k400.get_config()
  c.name = "X-ViT-B/16, 512 frames"
  c.dtype = "bfloat16"
  c.remat = "block"
  c.model.temporal.segment = None
  c.data.update({"batch_size": 8, "frames": 512, "sampling": "segments"})
  c.train.mixup_group = 8
  c.eval.batch_size = 8
  c.mesh.frames = 8
  common.apply_variant(c, variant)
  return c
