r"""SIFA-Transformer on Swin-B, 64 frames, on Kinetics-400.

Purpose: train or evaluate the transformer of "Stand-Alone Inter-Frame Attention
in Video Models" (SIFA, Long et al., CVPR 2022): 64 frames, every second one;
four of them become one map, and blocks without shifted windows add to each map
what they find around the same place in the next one.

Its settings are not released beyond the frames, and the released script has SGD
only. Sampling, crops and colours are the script's; the optimiser, its rates, 30
epochs and 64 clips are our choice: those of Video Swin-B (Liu et al., CVPR
2022), with the script's shape of the schedule and its limit of the gradient.

Published: 83.1 / 95.7 % top-1 / top-5, 4 clips x 3 crops (not re-measured);
from Swin-B trained on ImageNet. `--config.init_from=FILE` starts from such
weights; random ones will not reach it.
Hardware: 8 accelerators of 80 GB, 8 clips each.

    python -m vidjax.main --config=configs/sifa_swin_b_k400.py \\
        --workdir=runs/sifa_swin_b_k400 --config.data.root=/data/k400

Training evaluates the centre of one clip of each video; `--mode=eval
--config.eval.clips=4 --config.eval.crops=3` then gives the published number of
views. Variants: `smoke` is a two-step trial.
"""

import ml_collections

from configs import common, sifa_recipe


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = common.get_config()
  c.name = "SIFA-Transformer, Swin-B, Kinetics-400"
  sifa_recipe.recipe(c, "sifa_swin_b_64f_k400")
  c.data.update({"stride": 2, "batch_size": 64})
  c.train.update({"epochs": 30.0, "clip_norm": 40.0})
  c.optimizer.update(
    {
      "name": "adamw",
      "betas": (0.9, 0.999),
      "eps": 1e-8,
      "weight_decay": 0.05,
      "no_decay": (r"norm\d?/(scale|bias)$", r"/bias/table$"),
      "lr_multipliers": ((r"^(?!head/)", 0.1),),
    }
  )
  c.schedule.update({"base_lr": 3e-4, "final_lr": 1e-6, "warmup_epochs": 2.5})
  common.apply_variant(c, variant)
  return c
