r"""LAPS on ViT-B/16, 8 frames, on Kinetics-400: the released recipe.

Purpose: train or evaluate the ViT of "Long-term Leap Attention, Short-term
Periodic Shift for Video Classification" (LAPS, Zhang et al., ACM MM 2022) as
its official code does: 8 frames, every eighth one; attention joins frames that
are 4, 2, 1 and 4 apart in turn.

Published: no accuracy. The official runs start from ViT trained on ImageNet-21k
(`--config.init_from=FILE`).
Hardware: 4 accelerators of 32 GB or more, 18 clips each, 10 times a step.

    python -m vidjax.main --config=configs/laps_vit_k400.py \\
        --workdir=runs/laps_vit_k400 --config.data.root=/data/k400

Training evaluates one clip of each video; `--mode=eval --config.eval.clips=10`
then gives the official number of views.

Variants: `384` (frames of 384 pixels, 3 clips each), `l16_384` (ViT-L/16, one
clip each); `smoke` is a two-step trial. Join them with commas.
"""

import ml_collections

from configs import common, laps_recipe
from configs.laps_recipe import Setup

VARIANTS = {
  "384": Setup(
    "laps_vit_b16_384_k400", clips=3, base_lr=0.03, jitter=(384, 512)
  ),
  "l16_384": Setup(
    "laps_vit_l16_384_k400", clips=1, base_lr=0.01, jitter=(384, 512)
  ),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "LAPS, ViT, Kinetics-400"
  laps = Setup("laps_vit_b16_k400", clips=18, base_lr=0.18)
  laps_recipe.vit(c, variant, 8, laps, VARIANTS)
  return c
