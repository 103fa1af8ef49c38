"""The complete base configuration; every experiment page edits a copy.

Every key that vidjax reads is here, so a page shows only what it changes, and
the returned dictionary is locked: an unknown key is an error that names it.
Durations are given as `*_steps` or `*_epochs` (exactly one of a pair is set).
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from vidjax.checks import Config
from vidjax.models.registry import model_options, model_spec


def get_config() -> ml_collections.ConfigDict:
  """Returns the base configuration, complete and locked."""
  c = ml_collections.ConfigDict()
  c.name = "unnamed"  # printed in the log and the report
  c.seed = 0
  c.dtype = "float32"  # compute dtype: "float32" or "bfloat16"
  c.remat = "none"  # "none", or "block": recompute each block's activations

  # Weights that a new run starts from (a continued one has its own): pretrained
  # folder, Hub repository, weights file or work directory.
  c.init_from = ""

  # The registered model and every argument of its class that may be changed.
  c.model = ml_collections.ConfigDict()

  c.data = ml_collections.ConfigDict(
    {
      "source": "manifest",  # "manifest" (root/*.jsonl) or "motion" (built in)
      "root": "",  # folder with <split>.jsonl and labels.json
      "train_split": "train",
      "eval_split": "val",
      # Whose labels count, if clips have several: "" the first head's, a head's
      # name, or "all" with the classes of each, whose sum is num_classes.
      "head": "",
      "head_sizes": (),
      "batch_size": 64,  # clips per optimiser step, over all devices
      "frames": 16,
      "image_size": 224,
      # "dense", "dense_loop", "strided", "segments" or "snippets"
      # (data/sampling.py)
      "sampling": "dense",
      "stride": 16,  # native frames between two samples (not "segments")
      "segments": 1,  # parts of the video that frames come from ("snippets")
      # "multiscale", "jitter", "shift", "resized" or "inception"
      # (data/geometry.py)
      "crop": "multiscale",
      "jitter": (256, 320),  # short side is drawn from this range ("jitter")
      "resize_side": 256,  # short side before the box is cut ("resized")
      # Range of the box as a share of the frame ("resized", "inception").
      "area": (0.08, 1.0),
      "flip": 0.0,  # probability of a horizontal flip
      "no_flip_labels": (),  # classes that are never flipped
      # "none", "v0", "photometric", "imgaug", "rand-m7-n4-mstd0.5-inc1",
      # "moco_v2" or "rand16-n2-m27" (data/augment.py)
      "auto_augment": "none",
      "erase": 0.0,  # probability of random erasing
      "mean": (0.5, 0.5, 0.5),  # of pixels scaled to [0, 1]
      "std": (0.5, 0.5, 0.5),
      # "planned", or of other packages "decord", "opencv" or "torchcodec"
      # (data/backends.py)
      "decoder": "planned",
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
      # Epochs end with a step of fewer micro-batches; else they are joined.
      "partial_groups": False,
      # Micro-batches whose statistics replace the running ones of batch norm
      # ahead of each evaluation; 0 = none.
      "precise_bn_batches": 0,
      "clip_norm": 0.0,  # global gradient norm; 0 = no clipping
      "ema_decay": 0.0,  # 0 = no moving average of the weights
      "log_every_steps": 50,
      # A step whose loss or gradient is not finite: "stop", or "skip" it, up to
      # `max_skips` in a row (train/nonfinite.py).
      "nonfinite": "stop",
      "max_skips": 10,
      # Seconds without a step after which a job of several processes ends; 0 =
      # never. A compilation or an evaluation's last batch may take minutes.
      "stall_seconds": 1800,
    }
  )
  c.optimizer = ml_collections.ConfigDict(
    {
      "name": "sgd",  # "sgd" or "adamw"
      "momentum": 0.9,
      "nesterov": True,
      "betas": (0.9, 0.999),
      "eps": 1e-8,
      "weight_decay": 1e-5,
      # Regular expressions over parameter paths ("head/mlp/fc1/bias").
      "no_decay": (),
      # Pairs of such an expression and a factor of the learning rate; the first
      # that is found counts. 0 freezes, parameters without a match have 1.
      "lr_multipliers": (),
    }
  )
  c.schedule = ml_collections.ConfigDict(
    {
      # "cosine", "epoch_cosine", "gradual_cosine" or "steps"
      "name": "cosine",
      "base_lr": 0.03,
      "warmup_epochs": 5.0,
      "warmup_lr": 0.01,  # the rate at step 0 ("cosine")
      "warmup_factor": 0.1,  # of the rate, at step 0 (all but "cosine")
      "final_lr": 0.0,  # of both cosines
      "decay_epochs": (),  # the rate falls here ("steps") ...
      "decay_factor": 0.1,  # ... to this share
    }
  )

  c.eval = ml_collections.ConfigDict(
    {
      "batch_size": 16,  # videos per step, over all devices
      "clips": 1,
      "crops": 3,
      # "slowfast", "mmaction" or "torchvision" (data/geometry.py)
      "crop_style": "slowfast",
      "short_side": 0,  # of the frames that are cropped; 0 = the image size
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
  c.mesh = ml_collections.ConfigDict(
    {
      "data": -1,  # devices with other clips; -1: all that the others leave
      "fsdp": 1,  # ... that also split parameters and moments
      "frames": 1,  # ... that split the frames of a clip
      "tensor": 1,  # ... that split the channels of wide layers
    }
  )
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


def _smoke_vit(model: Config) -> dict[str, Any]:
  del model
  return {"patch_size": 16, "dim": 24, "depth": 2, "heads": 2}


def _smoke_swin(model: Config) -> dict[str, Any]:
  return {
    "patch_size": (model.patch_size[0], 4, 4),
    "dim": 8,
    "depths": (2, 2),
    "heads": (1, 2),
    "window": (model.window[0], 4, 4),
  }


def _smoke_visformer(model: Config) -> dict[str, Any]:
  return {
    "stem_width": 4,
    "dim": 16,
    "depths": (1, 2, 1),
    "heads": 2,
    "bn_groups": min(model.bn_groups, 2),
  }


def _smoke_resnet(model: Config) -> dict[str, Any]:
  return {
    "dim": 4,
    "depths": (1, 1, 2, 1),
    "bn_groups": min(model.bn_groups, 2),
  }


# By class: options that let two steps at 32 x 32 pixels take seconds.
_SMOKE: dict[str, Callable[..., dict[str, Any]]] = {
  "ViT": _smoke_vit,
  "Swin": _smoke_swin,
  "Visformer": _smoke_visformer,
  "ResNet": _smoke_resnet,
}


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


def motion_recipe(c: ml_collections.ConfigDict) -> None:
  """The recipe of all tiny models on the motion clips, minutes on a CPU."""
  c.data.update(
    {
      "source": "motion",
      "batch_size": 16,
      "frames": 8,
      "sampling": "segments",
      "crop": "shift",
      "flip": 0.5,
    }
  )
  c.motion.update({"train_clips": 9000})
  c.train.update({"epochs": 4.0, "clip_norm": 1.0})
  c.optimizer.update(
    {
      "name": "adamw",
      "betas": (0.9, 0.99),
      "weight_decay": 0.05,
      "no_decay": (r"/(bias|scale)$",),
    }
  )
  c.schedule.update(
    {
      "base_lr": 1e-3,
      "warmup_lr": 0.0,
      "warmup_epochs": 0.4,
    }
  )
  c.eval.update(
    {
      "batch_size": 96,
      "clips": 1,
      "crops": 1,
      "every_epochs": 1.0,
    }
  )
  c.checkpoint.update({"every_epochs": 1.0})


def smoke(c: ml_collections.ConfigDict) -> None:
  """Shrinks a page to two steps of a tiny model on a few motion clips.

  The recipe (sampling, augmentation, optimiser, losses) stays as it is.
  """
  c.name += " (smoke)"
  backbone = model_spec(c.model.name).backbone.__name__
  c.model.update(
    {"num_classes": 12, "image_size": 32, **_SMOKE[backbone](c.model)}
  )
  if "heads" in c.model.get("head", {}):
    c.model.head.heads = 2
  c.motion.update({"train_clips": 24, "val_clips": 12, "size": 48})
  c.data.update(
    {
      "source": "motion",
      "root": "",
      "batch_size": 8,
      "image_size": 32,
      "jitter": (36, 44),
      "resize_side": 36,
    }
  )
  c.train.update({"epochs": 0.0, "steps": 2, "log_every_steps": 1})
  c.train.accumulate = min(c.train.accumulate, 2)
  c.train.precise_bn_batches = min(c.train.precise_bn_batches, 2)
  c.train.mixup_group = min(c.train.mixup_group, 8 // c.train.accumulate)
  c.schedule.warmup_epochs = 0.3
  c.eval.update({"batch_size": 8, "every_epochs": 0.0, "every_steps": 2})
  c.checkpoint.update({"every_epochs": 0.0, "every_steps": 2})
  c.mesh.update({"data": -1, "fsdp": 1, "frames": 1, "tensor": 1})
  if c.data.frames > 64:  # a page of long clips
    c.data.frames = 16
    if "bias_frames" in c.model:
      c.model.bias_frames = 16 // c.model.patch_size[0]


def _change_model(
  c: ml_collections.ConfigDict, change: str | Mapping[str, Any]
) -> None:
  if isinstance(change, str):
    set_model(c, change)
    return
  with c.unlocked():  # a plug's defaults are not among its options
    for key, value in change.items():
      if isinstance(value, Mapping) and "op" in value:  # another plug
        setattr(c.model, key, ml_collections.ConfigDict(value))
      else:
        c.model.update({key: value})


def apply_variant(
  c: ml_collections.ConfigDict,
  variant: str,
  models: Mapping[str, str | Mapping[str, Any]] | None = None,
) -> None:
  """Applies a page's comma-separated variants.

  Args:
    c: the page.
    variant: "", "smoke" or names of `models`, joined by commas.
    models: variant to the registered model that it puts in place, or to the
      options of the model that it changes.

  Raises:
    ValueError: if a variant is unknown.
  """
  models = models or {}
  for name in filter(None, variant.split(",")):
    if name in models:
      c.name += f", {name}"
      _change_model(c, models[name])
    elif name == "smoke":
      smoke(c)
    else:
      known = ", ".join(["smoke", *models])
      raise ValueError(
        f"this configuration has no variant {name!r}; use one of {known}"
      )
