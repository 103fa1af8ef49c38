r"""PST-T on 512 frames, split over 8 devices.

Purpose: videos of minutes. Patch shift takes tokens from up to four frames
away, on a circle: each device computes 64 frames of a clip and gets ten of
every nine tokens of a frame from each neighbour in each block that shifts,
whatever the length. The recipe is that of `configs/tps_k400.py`; the table of
position biases has a row for each difference of 256 pairs of frames.

Published: nothing; this is ours, and no accuracy was measured.
Hardware: 8 accelerators of 32 GB for every clip of the batch at a time.

    python -m vidjax.main --config=configs/tps_long.py --workdir=runs/long \\
        --config.data.root=/data/long

`--config.mesh.frames=N` splits clips over N devices. Clips of other lengths
need `--config.model.bias_frames`, half of their frames.
"""

import ml_collections

from configs import common, tps_k400


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = tps_k400.get_config()
  c.name = "PST-T, 512 frames"
  c.dtype = "bfloat16"
  c.remat = "block"
  c.model.bias_frames = 256
  c.data.update({"batch_size": 8, "frames": 512, "sampling": "segments"})
  c.eval.update({"batch_size": 8, "clips": 1})
  c.mesh.frames = 8
  common.apply_variant(c, variant)
  return c
