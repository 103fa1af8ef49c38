r"""A tiny PST (TPS on Swin) on the built-in motion clips, minutes on a CPU.

Purpose: the small experiment beside the paper's (Xiang et al., ECCV 2022):
patch shift and channel shift in alternating blocks of a Swin whose attention
never leaves the frame, against the same Swin without them.

    python -m vidjax.main --config=configs/tps_motion.py --workdir=runs/pst

Variants (`--config=configs/tps_motion.py:none`) replace the shifts: `none`
(frames apart), `joint` (windows of 8 frames, Video Swin). Other schedules and
patterns are arguments: `--config.model.temporal.schedule=patch_only`,
`--config.model.temporal.pattern=a3`. `smoke` is a two-step trial.
Expected top-1 and times: see benchmarks/motion.md.
"""

import ml_collections

from configs import common

MODELS = {"none": "swin_motion", "joint": "video_swin_motion"}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the small PST or one of its variants."""
  c = common.get_config()
  c.name = "PST on motion clips"
  common.set_model(c, "pst_motion")
  common.motion_recipe(c)
  common.apply_variant(c, variant, MODELS)
  return c
