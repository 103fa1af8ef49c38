r"""PST-T, 32 frames, on Something-Something v1: the released recipe.

Purpose: train or evaluate the small model of "Spatiotemporal Self-attention
Modeling with Temporal Patch Shift for Action Recognition" (TPS, Xiang et al.,
ECCV 2022) as its official code does: a frame from each of 32 segments,
RandAugment, random erasing, and no flip of the labels that are directed in v2
(v1 numbers its classes in another order; the official page has them so too).

Published: 53.6 / 82.2 % top-1 / top-5, 1 clip x 3 crops, from K400 weights;
52.8 / 80.5 % from ImageNet-1k (not re-measured). `--config.init_from=FILE`
starts from such weights; random ones will not reach it.
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/tps_ssv1.py \\
        --workdir=runs/tps_ssv1 --config.data.root=/data/ssv1

Variants: `intended` has the parameter groups that the released page asks for
(its training library applied others, the default here); `smoke` is a two-step
trial.
"""

import ml_collections

from configs import common, tps_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "PST-T, Something-Something v1"
  tps_recipe.recipe(c, "pst_t_ssv1")
  tps_recipe.segments(c, label_smoothing=0.1)
  c.data.no_flip_labels = tps_recipe.DIRECTED_LABELS
  tps_recipe.finish(c, variant)
  return c
