r"""PST-T, 32 frames, on Diving-48: the released recipe.

Purpose: train or evaluate the small model of "Spatiotemporal Self-attention
Modeling with Temporal Patch Shift for Action Recognition" (TPS, Xiang et al.,
ECCV 2022) as its official code does: a frame from each of 32 segments,
RandAugment, random erasing, label smoothing 0.02.

Published: none for this size (the base model: 86.0 % top-1, V2 labels).
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/tps_diving48.py \\
        --workdir=runs/tps_diving48 --config.data.root=/data/diving48

Variants: `intended` has the parameter groups that the released page asks for
(its training library applied others, the default here); `smoke` is a two-step
trial.
"""

import ml_collections

from configs import common, tps_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "PST-T, Diving-48"
  tps_recipe.recipe(c, "pst_t_diving48")
  tps_recipe.segments(c, label_smoothing=0.02)
  tps_recipe.finish(c, variant)
  return c
