r"""PST-T, 32 frames, on Something-Something v2: the released recipe.

Purpose: train or evaluate the small model of "Spatiotemporal Self-attention
Modeling with Temporal Patch Shift for Action Recognition" (TPS, Xiang et al.,
ECCV 2022) as its official code does: a frame from each of 32 segments, no flip
of directed classes, RandAugment, random erasing.

Published: 67.3 / 90.5 % top-1 / top-5, 1 clip x 3 crops, from K400 weights;
66.4 / 90.2 % from ImageNet-1k (not re-measured). `--config.init_from=FILE`
starts from such weights; random ones will not reach it.
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/tps_ssv2.py \\
        --workdir=runs/tps_ssv2 --config.data.root=/data/ssv2

Variants: `intended` has the parameter groups that the released page asks for
(its training library applied others, the default here); `smoke` is a two-step
trial.
"""

import ml_collections

from configs import common, tps_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "PST-T, Something-Something v2"
  tps_recipe.recipe(c, "pst_t_ssv2")
  tps_recipe.segments(c, label_smoothing=0.1)
  c.data.no_flip_labels = tps_recipe.DIRECTED_LABELS
  tps_recipe.finish(c, variant)
  return c
