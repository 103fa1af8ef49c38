r"""A tiny SIFA-Net on the built-in motion clips, minutes on a CPU.

Purpose: the small experiment beside the paper's (Long et al., CVPR 2022):
attention from each frame to deformable neighbours in the next one, in a ResNet.

    python -m vidjax.main --config=configs/sifa_motion.py --workdir=runs/sifa

The official stem joins four frames and so sees motion by itself. Variants
(`--config=configs/sifa_motion.py:c2d`) take every frame on its own:
`per_frame`, the same network, in which the attention alone (and not its global
context) can tell the order of the frames; `c2d`, the ResNet without both.
`smoke` is a two-step trial; join with commas.
"""

import ml_collections

from configs import common

MODELS = {"per_frame": "sifa_per_frame_motion", "c2d": "c2d_motion"}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the small SIFA-Net or one of its variants."""
  c = common.get_config()
  c.name = "SIFA on motion clips"
  common.set_model(c, "sifa_motion")
  common.motion_recipe(c)
  common.apply_variant(c, variant, MODELS)
  return c
