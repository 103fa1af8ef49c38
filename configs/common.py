"""The complete base configuration; every experiment page edits a copy.

Every key that vidjax reads is here, so a page shows only what it changes, and
the returned dictionary is locked: an unknown key is an error that names it.
Durations are given as `*_steps` or `*_epochs` (exactly one of a pair is set).
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from vidjax import model_options


def get_config() -> ml_collections.ConfigDict:
  """Returns the base configuration, complete and locked."""
  c = ml_collections.ConfigDict()
  c.name = "unnamed"  # printed in the log and the report
  c.seed = 0
  c.dtype = "float32"  # compute dtype: "float32" or "bfloat16"
  c.remat = "none"  # "none", or "block": recompute each block's activations

  # The registered model and every argument of its class that may be changed.
  c.model = ml_collections.ConfigDict()

  c.data = ml_collections.ConfigDict(
    {
      "source": "manifest",  # "manifest" (root/*.jsonl) or "motion" (built in)
      "root": "",  # folder with <split>.jsonl and labels.json
      "train_split": "train",
      "eval_split": "val",
      "batch_size": 64,  # clips per optimiser step, over all devices
      "frames": 16,
      "image_size": 224,
      "sampling": "dense",  # "dense" (frames x stride) or "segments" (TSN)
      "stride": 16,  # native frames between two samples ("dense")
      "crop": "multiscale",  # "multiscale", "jitter" or "shift"
      "jitter": (256, 320),  # short side is drawn from this range ("jitter")
      "flip": 0.0,  # probability of a horizontal flip
      "auto_augment": "none",  # "none" or "v0"
      "erase": 0.0,  # probability of random erasing
      "mean": (0.5, 0.5, 0.5),  # of pixels scaled to [0, 1]
      "std": (0.5, 0.5, 0.5),
      "threads": 2,  # decoding threads of each process
      "prefetch": 4,  # batches decoded ahead
      "max_bad_share": 0.01,  # stop when more of the videos cannot be read
    }
  )
  # Only read when data.source is "motion" (vidjax/data/motion.py).
  c.motion = ml_collections.ConfigDict(
    {
      "train_clips": 2400,
      "val_clips": 480,
      "frames": 16,
      "size": 64,
      "seed": 0,
    }
  )

  c.train = ml_collections.ConfigDict(
    {
      "epochs": 30.0,  # set `steps` instead with epochs = 0
      "steps": 0,
      "label_smoothing": 0.0,
      "mixup_alpha": 0.0,
      "mixup_group": 8,  # clips that share one mixing weight
      "accumulate": 1,  # micro-batches per optimiser step
      "clip_norm": 0.0,  # global gradient norm; 0 = no clipping
      "ema_decay": 0.0,  # 0 = no moving average of the weights
      "log_every_steps": 50,
    }
  )
  c.optimizer = ml_collections.ConfigDict(
    {
      "name": "sgd",  # "sgd" (Nesterov) or "adamw"
      "momentum": 0.9,
      "betas": (0.9, 0.999),
      "eps": 1e-8,
      "weight_decay": 1e-5,
      # Regular expressions over parameter paths ("head/mlp/fc1/bias").
      "no_decay": (),
    }
  )
  c.schedule = ml_collections.ConfigDict(
    {
      "base_lr": 0.03,
      "warmup_lr": 0.01,  # the rate at step 0
      "warmup_epochs": 5.0,
      "final_lr": 0.0,
    }
  )

  c.eval = ml_collections.ConfigDict(
    {
      "batch_size": 16,  # videos per step, over all devices
      "clips": 1,
      "crops": 3,
      "fusion": "logits",  # of the views: sum of "logits" or mean "softmax"
      "every_epochs": 1.0,
      "every_steps": 0,  # used when every_epochs is 0
    }
  )
  c.checkpoint = ml_collections.ConfigDict(
    {
      "every_epochs": 1.0,
      "every_steps": 0,  # used when every_epochs is 0
      "keep": 3,  # newest checkpoints kept, beside the best
      "best": "eval/top1",  # the metric whose best checkpoint is kept
    }
  )
  c.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})  # -1: the rest
  c.writers = ml_collections.ConfigDict(
    {
      "tensorboard": True,
      "wandb_project": "",  # empty: off
    }
  )
  return c.lock()


def set_model(c: ml_collections.ConfigDict, name: str) -> None:
  """Makes a registered model, with all of its options, the page's model."""
  with c.unlocked():
    c.model = ml_collections.ConfigDict(_settable(model_options(name)))
  c.data.image_size = c.model.image_size


def _settable(options: dict[str, Any]) -> dict[str, Any]:
  """Gives options that are None a type, so that a flag can set them."""
  return {
    key: _settable(value)
    if isinstance(value, dict)
    else config_dict.placeholder(object)
    if value is None
    else value
    for key, value in options.items()
  }


def smoke(c: ml_collections.ConfigDict) -> None:
  """Shrinks a page to two steps of a tiny model on a few motion clips.

  The recipe (sampling, augmentation, optimiser, losses) stays as it is.
  """
  c.name += " (smoke)"
  c.model.update(
    {
      "num_classes": 12,
      "image_size": 32,
      "patch_size": 16,
      "dim": 24,
      "depth": 2,
      "heads": 2,
    }
  )
  if "heads" in c.model.head:
    c.model.head.heads = 2
  c.motion.update({"train_clips": 24, "val_clips": 12, "size": 48})
  c.data.update(
    {
      "source": "motion",
      "root": "",
      "batch_size": 8,
      "image_size": 32,
      "jitter": (36, 44),
    }
  )
  c.train.update({"epochs": 0.0, "steps": 2, "log_every_steps": 1})
  c.train.mixup_group = min(c.train.mixup_group, 8)
  c.schedule.warmup_epochs = 0.3
  c.eval.update({"batch_size": 8, "every_epochs": 0.0, "every_steps": 2})
  c.checkpoint.update({"every_epochs": 0.0, "every_steps": 2})


def apply_variant(
  c: ml_collections.ConfigDict,
  variant: str,
  models: Mapping[str, str] | None = None,
) -> None:
  """Applies a page's comma-separated variants.

  Args:
    c: the page.
    variant: "", "smoke" or names of `models`, joined by commas.
    models: variant to the registered model that it puts in place.

  Raises:
    ValueError: if a variant is unknown.
  """
  models = models or {}
  for name in filter(None, variant.split(",")):
    if name in models:
      c.name += f", {name}"
      set_model(c, models[name])
    elif name == "smoke":
      smoke(c)
    else:
      known = ", ".join(["smoke", *models])
      raise ValueError(
        f"this configuration has no variant {name!r}; use one of {known}"
      )
