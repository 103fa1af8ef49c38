r"""SIFA-Net on ResNet-101, 32 frames, on Kinetics-400.

Purpose: train or evaluate the network of "Stand-Alone Inter-Frame Attention in
Video Models" (SIFA, Long et al., CVPR 2022) with 32 frames in a row. Its
settings are not released: this is the recipe of ResNet-50 with 16 frames, and
the 12 clips on a device are our choice.

Published: 79.8 / 94.2 % top-1 / top-5, 10 clips x 3 crops (not re-measured);
from ResNet-101 trained on ImageNet. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 4 accelerators of 32 GB or more, 12 clips each, 4 times a step.

    python -m vidjax.main --config=configs/sifa_r101_k400_32.py \\
        --workdir=runs/sifa_r101_k400_32 --config.data.root=/data/k400

Rate, evaluation and the published number of views are as in
configs/sifa_r50_k400_16.py. Variants: `smoke` is a two-step trial.
"""

import ml_collections

from configs import common, sifa_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = common.get_config()
  c.name = "SIFA-Net, R101, 32 frames, Kinetics-400"
  sifa_recipe.net(c, "sifa_r101_32f_k400", variant, clips=12)
  return c
