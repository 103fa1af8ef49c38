r"""A tiny X-ViT on the built-in motion clips: the demo, minutes on a CPU.

Purpose: show the whole path, from mp4 files that it writes itself to a
trained, evaluated, saved model and a report; and compare temporal operations,
since no single frame, nor all frames without their order, tells the classes
of a pair apart (left / right, approach / recede, ...).

    python -m vidjax.main --config=configs/xvit_motion.py --workdir=runs/demo

Variants (`--config=configs/xvit_motion.py:spatial`) train the same ViT with
another temporal operation: spatial (none, frames averaged), joint,
timesformer, tsm, tokshift. `smoke` is a two-step trial; join with commas.
Expected top-1 and times: see benchmarks/motion.md.
"""

import ml_collections

from configs import common

MODELS = {
  "spatial": "vit_motion",
  "joint": "vit_joint_motion",
  "timesformer": "timesformer_motion",
  "tsm": "tsm_vit_motion",
  "tokshift": "tokshift_vit_motion",
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the demo or one of its variants."""
  c = common.get_config()
  c.name = "X-ViT on motion clips"
  common.set_model(c, "xvit_motion")
  common.motion_recipe(c)
  common.apply_variant(c, variant, MODELS)
  return c
