r"""TokShift on ViT-B/16, 8 frames, on Kinetics-400: the released recipe.

Purpose: train or evaluate the model of "Token Shift Transformer for Video
Classification" (TokShift, Zhang et al., ACM MM 2021) as the code of LAPS does:
8 frames, every 32nd one; ahead of each attention and MLP a quarter of the class
token's channels comes from the next frame, another from the previous.

Published: 77.60 % top-1, 10 clips x 3 crops (not re-measured); `16x32` 77.95,
`384` 79.63, `l16_384` 80.40; from ViT trained on ImageNet-21k.
`--config.init_from=FILE` starts from such weights; random ones will not reach
it.
Hardware: 4 accelerators of 32 GB or more, 24 clips each, 10 times a step.

    python -m vidjax.main --config=configs/tokshift_k400.py \\
        --workdir=runs/tokshift_k400 --config.data.root=/data/k400

Training evaluates one clip of each video; `--mode=eval --config.eval.clips=10`
then gives the published number of views.

Variants: `16x32` (16 frames, 12 clips each), `384` (frames of 384 pixels, 5
clips each), `l16_384` (ViT-L/16, 12 frames of 384 pixels, one clip each);
`smoke` is a two-step trial. Join them with commas.
"""

import ml_collections

from configs import common, laps_recipe
from configs.laps_recipe import Setup

VARIANTS = {
  "16x32": Setup("tokshift_b16_16f_k400", clips=12, base_lr=0.12, frames=16),
  "384": Setup(
    "tokshift_b16_384_k400", clips=5, base_lr=0.05, jitter=(384, 512)
  ),
  "l16_384": Setup(
    "tokshift_l16_384_k400",
    clips=1,
    base_lr=0.01,
    frames=12,
    jitter=(384, 480),
  ),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "TokShift, ViT, Kinetics-400"
  tokshift = Setup("tokshift_b16_k400", clips=24, base_lr=0.24)
  laps_recipe.vit(c, variant, 32, tokshift, VARIANTS)
  return c
