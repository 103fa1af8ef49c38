r"""X-ViT-B/16, 16 frames, on Kinetics-400: the released recipe.

Purpose: train or evaluate the model of "Space-time Mixing Attention for Video
Transformer" (Bulat et al., NeurIPS 2021) as its official code does. 16 frames
at stride 16; keys and values mix with +-1 frame inside two segments of 8
frames (25 % of the channels), a temporal attention head joins the segments.

Published: 80.2 / 94.7 % top-1 / top-5, 1 clip x 3 crops (not re-measured).
The published run starts from ImageNet-21k ViT weights
(`--config.init_from=FILE`); from random ones it will stay far below.
Hardware: 8 accelerators of 32 GB or more, 8 clips each.

    python -m vidjax.main --config=configs/xvit_k400.py --workdir=runs/k400 \\
        --config.data.root=/data/k400

`/data/k400` holds train.jsonl, val.jsonl and labels.json (docs/data.md).
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
  """Returns the configuration; variant "smoke" is a two-step trial run."""
  c = common.get_config()
  c.name = "X-ViT-B/16, Kinetics-400"
  common.set_model(c, "xvit_b16_k400")
  c.data.update(
    {
      "batch_size": 64,
      "frames": 16,
      "sampling": "dense",
      "stride": 16,
      "crop": "multiscale",
      "flip": 0.5,
      "auto_augment": "v0",
    }
  )
  c.train.update(
    {
      "epochs": 30.0,
      "label_smoothing": 0.3,
      "mixup_alpha": 0.4,
      "mixup_group": 8,  # the official batch of one of 8 GPUs
    }
  )
  c.optimizer.update(
    {
      "name": "sgd",
      "momentum": 0.9,
      "weight_decay": 1e-5,
      "no_decay": (r"^head/(norm|fc\d?)/bias$",),
    }
  )
  c.schedule.update({"base_lr": 0.03, "warmup_lr": 0.01, "warmup_epochs": 5.0})
  c.eval.update({"clips": 1, "crops": 3, "fusion": "logits"})
  common.apply_variant(c, variant)
  return c
