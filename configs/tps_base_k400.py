r"""PST-B, 32 frames, on Kinetics-400.

Purpose: train or evaluate the base model of "Spatiotemporal Self-attention
Modeling with Temporal Patch Shift for Action Recognition" (TPS, Xiang et al.,
ECCV 2022) with drop path 0.2 (its released model file); its recipe is not
released, this is that of the small model.

Published: 81.8 / 95.4 % top-1 / top-5, 4 clips x 3 crops (not re-measured);
from Swin-B trained on ImageNet-21k. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/tps_base_k400.py \\
        --workdir=runs/tps_base_k400 --config.data.root=/data/k400

Variants: `intended` has the parameter groups that the released page asks for
(its training library applied others, the default here); `smoke` is a two-step
trial.
"""

import ml_collections

from configs import common, tps_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "PST-B, Kinetics-400"
  tps_recipe.recipe(c, "pst_b_k400")
  tps_recipe.finish(c, variant)
  return c
