r"""LAPS on Visformer-S, 32 frames of 320 pixels, on Kinetics-400.

Purpose: train or evaluate the large input of "Long-term Leap Attention,
Short-term Periodic Shift for Video Classification" (LAPS, Zhang et al., ACM MM
2022) as its official code does: 32 frames, every eighth one; attention joins
frames that are 16, 8, 4, 2 and 1 apart in turn.

Published: no accuracy. The official runs start from Visformer-S trained on
ImageNet (`--config.init_from=FILE`).
Hardware: 8 accelerators of 32 GB or more, 4 clips each, 10 times a step.

    python -m vidjax.main --config=configs/laps_k400_32x8.py \\
        --workdir=runs/laps_k400_32x8 --config.data.root=/data/k400

Training evaluates one clip of each video; `--mode=eval --config.eval.clips=10`
then gives the official number of views.

Variants: `360` (frames of 360 pixels, 3 clips each); `smoke` is a two-step
trial. Join them with commas.
"""

import ml_collections

from configs import common, laps_recipe
from configs.laps_recipe import Setup

VARIANTS = {
  "360": Setup(
    "laps_visformer_s_360_k400",
    clips=3,
    base_lr=0.036,
    frames=32,
    jitter=(360, 540),
  ),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "LAPS, Visformer-S, 32 frames, Kinetics-400"
  laps = Setup(
    "laps_visformer_s_320_k400",
    clips=4,
    base_lr=0.036,
    frames=32,
    jitter=(320, 480),
  )
  laps_recipe.visformer(c, variant, laps, VARIANTS)
  return c
