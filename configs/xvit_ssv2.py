r"""X-ViT-B/16, 16 frames, on Something-Something v2: the released recipe.

Purpose: train or evaluate the SSv2 model of "Space-time Mixing Attention for
Video Transformer" (Bulat et al., NeurIPS 2021) as its official code does: one
frame from each of 16 segments, 50 % of the key and value channels mixed over
all 16 frames, plain cross-entropy, no flip, random erasing.

Published: 67.19 / 91.00 % top-1 / top-5, 2 clips x 3 crops (not re-measured);
from ImageNet-21k weights, see the K400 page.
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/xvit_ssv2.py --workdir=runs/ssv2 \\
        --config.data.root=/data/ssv2
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = common.get_config()
  c.name = "X-ViT-B/16, Something-Something v2"
  common.set_model(c, "xvit_b16_ssv2")
  c.data.update(
    {
      "batch_size": 64,
      "frames": 16,
      "sampling": "segments",
      "crop": "jitter",
      "jitter": (256, 320),
      "flip": 0.0,
      "auto_augment": "v0",
      "erase": 0.5,
    }
  )
  c.train.update({"epochs": 35.0})
  c.optimizer.update(
    {
      "name": "sgd",
      "momentum": 0.9,
      "weight_decay": 1e-4,
      "no_decay": (r"^head/(norm|fc\d?)/bias$",),
    }
  )
  c.schedule.update(
    {
      "base_lr": 0.03,
      "warmup_lr": 0.003,
      "warmup_epochs": 5.0,
    }
  )
  c.eval.update({"clips": 2, "crops": 3, "fusion": "logits"})
  common.apply_variant(c, variant)
  return c
