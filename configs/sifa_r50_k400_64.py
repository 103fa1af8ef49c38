r"""SIFA-Net on ResNet-50, 64 frames, on Kinetics-400.

Purpose: train or evaluate the network of "Stand-Alone Inter-Frame Attention in
Video Models" (SIFA, Long et al., CVPR 2022) with 64 frames in a row. Its
settings are not released: this is the recipe of ResNet-50 with 16 frames, and
the 6 clips on a device are our choice.

Published: 80.1 / 94.4 % top-1 / top-5, 10 clips x 3 crops (not re-measured);
from ResNet-50 trained on ImageNet. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 4 accelerators of 32 GB or more, 6 clips each, 4 times a step.

    python -m vidjax.main --config=configs/sifa_r50_k400_64.py \\
        --workdir=runs/sifa_r50_k400_64 --config.data.root=/data/k400

Rate, evaluation and the published number of views are as in
configs/sifa_r50_k400_16.py. Variants: `smoke` is a two-step trial.
"""

import ml_collections

from configs import common, sifa_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = common.get_config()
  c.name = "SIFA-Net, R50, 64 frames, Kinetics-400"
  sifa_recipe.net(c, "sifa_r50_64f_k400", variant, clips=6)
  return c
