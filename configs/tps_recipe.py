"""What the TPS pages share: the released training recipe (ECCV 2022).

AdamW, 30 epochs of 64 clips, a cosine that moves once per epoch under a warm-up
by step, drop path 0.1, dropout 0.5 ahead of the classifier.
"""

from collections.abc import Mapping

import ml_collections

from configs import common

# The parameter groups: expressions, factors of the rate, and no weight decay.
# The released configuration asks for the second; the training library applies
# only the longest name that fits, which gives the first.
PARAMETER_GROUPS = {
  "executed": (
    ((r"/bias/table$", 1.0), (r"^(?!head/)", 0.1)),
    (r"/bias/table$",),
  ),
  "intended": (
    ((r"^(?!head/)", 0.1),),
    (r"norm\d?/(scale|bias)$", r"/bias/table$"),
  ),
}
# "left to right" and its like, of Something-Something v2's classes. The
# released page of v1, whose classes are in another order, has the same.
DIRECTED_LABELS = (86, 87, 93, 94, 166, 167)


def recipe(c: ml_collections.ConfigDict, model: str) -> None:
  """Puts a registered PST and the recipe of Kinetics-400 on a page."""
  common.set_model(c, model)
  c.data.update(
    {
      "batch_size": 64,
      "frames": 32,
      "sampling": "strided",
      "stride": 2,
      "crop": "resized",
      "resize_side": 256,
      "flip": 0.5,
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
    }
  )
  c.train.update({"epochs": 30.0})
  c.optimizer.update(
    {
      "name": "adamw",
      "betas": (0.9, 0.999),
      "eps": 1e-8,
      "weight_decay": 0.02,
    }
  )
  parameter_groups(c, "executed")
  c.schedule.update(
    {
      "name": "epoch_cosine",
      "base_lr": 1e-3,
      "warmup_epochs": 2.5,
      "warmup_factor": 0.1,
      "final_lr": 0.0,
    }
  )
  c.eval.update(
    {"clips": 4, "crops": 3, "crop_style": "mmaction", "fusion": "softmax"}
  )


def segments(c: ml_collections.ConfigDict, label_smoothing: float) -> None:
  """Changes the recipe to that of data sets of short, directed actions."""
  c.data.update(
    {"sampling": "segments", "auto_augment": "imgaug", "erase": 0.25}
  )
  c.train.label_smoothing = label_smoothing
  c.eval.clips = 1


def parameter_groups(c: ml_collections.ConfigDict, name: str) -> None:
  """Sets learning rate factors and weight decay by parameter."""
  multipliers, no_decay = PARAMETER_GROUPS[name]
  c.optimizer.update({"lr_multipliers": multipliers, "no_decay": no_decay})


def finish(
  c: ml_collections.ConfigDict,
  variant: str,
  models: Mapping[str, str] | None = None,
) -> None:
  """Applies a page's variants; "intended" changes the parameter groups."""
  names = [name for name in variant.split(",") if name]
  if "intended" in names:
    names.remove("intended")
    c.name += ", intended parameter groups"
    parameter_groups(c, "intended")
  common.apply_variant(c, ",".join(names), models)
