r"""A tiny LAPS on the built-in motion clips, minutes on a CPU.

Purpose: the small experiment beside the paper's (Zhang et al., ACM MM 2022):
leap attention and periodic shift in a Visformer, against the same Visformer
whose attention never leaves the frame.

    python -m vidjax.main --config=configs/laps_motion.py --workdir=runs/laps

Variants (`--config=configs/laps_motion.py:2d`) replace the plug: `la` (leap
attention alone, which cannot tell a clip from its reversal), `ps` (periodic
shift alone), `2d` (frames apart). Other levels and shifts are arguments:
`--config.model.temporal.shift=none`, `--config.model.temporal.fold_div=8`.
`smoke` is a two-step trial; join with commas.
Expected top-1 and times: see benchmarks/motion.md.
"""

import ml_collections

from configs import common

MODELS = {
  "la": "visformer_la_motion",
  "ps": "visformer_ps_motion",
  "2d": "visformer_2d_motion",
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the small LAPS or one of its variants."""
  c = common.get_config()
  c.name = "LAPS on motion clips"
  common.set_model(c, "laps_visformer_motion")
  common.motion_recipe(c)
  common.apply_variant(c, variant, MODELS)
  return c
