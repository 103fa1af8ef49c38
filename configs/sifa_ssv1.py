r"""SIFA-Net on ResNet-50, 16 frames, on Something-Something v1.

Purpose: train or evaluate the network of "Stand-Alone Inter-Frame Attention in
Video Models" (SIFA, Long et al., CVPR 2022) by the released settings of the
data set: no flips, a rate of 0.02, 5 epochs of warm-up. Those of the networks
are not released: the batch is that of Kinetics-400, and a frame of each of 16
parts of the video is our choice.

Published: 52.7 / 81.9 % top-1 / top-5, 1 clip x 3 crops (not re-measured); from
ResNet-50 trained on ImageNet. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 4 accelerators of 32 GB or more, 24 clips each, 4 times a step.

    python -m vidjax.main --config=configs/sifa_ssv1.py \\
        --workdir=runs/sifa_ssv1 --config.data.root=/data/ssv1

Training evaluates the centre of one clip of each video; `--mode=eval
--config.eval.crops=3 --config.data.image_size=256` then gives the published
number of views.

Variants: `intended` has the RandAugment that the released settings ask for (the
script reads another key, and changes colours: the default here); `smoke` is a
two-step trial. Join them with commas.
"""

import ml_collections

from configs import common, sifa_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration of the page or of one of its variants."""
  c = common.get_config()
  c.name = "SIFA-Net, R50, Something-Something v1"
  sifa_recipe.recipe(c, "sifa_r50_16f_ssv1")
  c.data.update({"segments": 16, "flip": 0.0})
  sifa_recipe.sgd(c, clips=24, base_lr=0.02, loss_weight=1)
  c.train.epochs = 64.0
  c.schedule.warmup_epochs = 5.0
  names = [name for name in variant.split(",") if name]
  if "intended" in names:
    names.remove("intended")
    c.name += ", intended augmentation"
    c.data.auto_augment = "rand16-n2-m27"
  sifa_recipe.finish(c, ",".join(names))
  return c
