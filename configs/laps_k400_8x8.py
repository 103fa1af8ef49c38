r"""LAPS on Visformer-S, 8 frames, on Kinetics-400: the released recipe.

Purpose: train or evaluate the model of "Long-term Leap Attention, Short-term
Periodic Shift for Video Classification" (LAPS, Zhang et al., ACM MM 2022) as
its official code does: 8 frames, every eighth one; attention joins frames that
are 4, 2 and 1 apart in turn, and a quarter of each head's channels comes from
the next frame, another from the previous.

Published: 76.04 % top-1, 10 clips x 3 crops (not re-measured); `la` 75.57 and
`ps` 75.48; from Visformer-S trained on ImageNet. `--config.init_from=FILE`
starts from such weights; random ones will not reach it. The released page has
the learning rate 0.2, the name of the published checkpoint 0.09023
(`--config.schedule.base_lr=0.09023`).
Hardware: 8 accelerators of 32 GB or more, 40 clips each, 10 times a step.

    python -m vidjax.main --config=configs/laps_k400_8x8.py \\
        --workdir=runs/laps_k400 --config.data.root=/data/k400

Training evaluates one clip of each video; `--mode=eval --config.eval.clips=10`
then gives the published number of views.

Variants: `la` (leap attention only), `ps` (periodic shift only), `plain` (all
channels shifted at once, attention in the frame), `base2d` (frames apart),
`base3d` (attention over all frames; half of the clips and of the rate) are the
paper's comparison; `smoke` is a two-step trial. Join them with commas.
"""

import ml_collections

from configs import common, laps_recipe
from configs.laps_recipe import Setup

VARIANTS = {
  "la": Setup("visformer_s_la_k400", clips=40, base_lr=0.2),
  "ps": Setup("visformer_s_ps_k400", clips=40, base_lr=0.2),
  "plain": Setup("visformer_s_plain_k400", clips=40, base_lr=0.2),
  "base2d": Setup("visformer_s_2d_k400", clips=40, base_lr=0.2),
  "base3d": Setup("visformer_s_joint_k400", clips=20, base_lr=0.1),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "LAPS, Visformer-S, Kinetics-400"
  laps = Setup("laps_visformer_s_k400", clips=40, base_lr=0.2)
  laps_recipe.visformer(c, variant, laps, VARIANTS)
  return c
