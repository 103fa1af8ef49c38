r"""SIFA-Net on ResNet-50, 16 frames, on Kinetics-400: the released recipe.

Purpose: train or evaluate the network of "Stand-Alone Inter-Frame Attention in
Video Models" (SIFA, Long et al., CVPR 2022) as its official code does: 16
frames in a row; in the last three stages every second block adds to each frame
what it finds around the same place in the next one.

Published: 77.4 / 93.3 % top-1 / top-5, 10 clips x 3 crops (not re-measured);
from ResNet-50 trained on ImageNet. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 4 accelerators of 32 GB or more, 24 clips each, 4 times a step.

    python -m vidjax.main --config=configs/sifa_r50_k400_16.py \\
        --workdir=runs/sifa_r50_k400_16 --config.data.root=/data/k400

The rate is the official 0.04 for gradients that are averaged over the
micro-batches and not summed (configs/sifa_recipe.py). Training evaluates the
centre of one clip of each video; `--mode=eval --config.eval.clips=10
--config.eval.crops=3 --config.data.image_size=256` then gives the published
number of views.

Variants: rows of the paper's Table 1. `colocated` and `regular` have no
offsets; `next`, `conv3d`, `difference` and `saliency` predict them from less;
`k1`, `k5`, `k7` and `k9` are the side of the neighbourhood; `res5`, `res4-5`
and `res2-5` the stages; `c2d`, `temporal_conv` and `tsm` other networks. The
paper has all but the last two groups with `res5`: `res5,k5`. `context`, which
is not in the paper, leaves out the attention alone: `c2d` also lacks the global
context blocks. `smoke` is a two-step trial. Join them with commas.
"""

import ml_collections

from configs import common, sifa_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "SIFA-Net, R50, 16 frames, Kinetics-400"
  sifa_recipe.net(
    c, "sifa_r50_16f_k400", variant, clips=24, variants=sifa_recipe.ABLATIONS
  )
  return c
