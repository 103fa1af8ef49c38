"""What the SIFA pages share: the released training script (CVPR 2022).

SGD with momentum 0.9, no Nesterov, weight decay on all parameters, 64 epochs;
4 devices, 4 micro-batches a step, batch norm over each device's clips of a
micro-batch; clips of neighbouring frames, MoCo v2's changes of colour.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common
from vidjax.models.registry import model_spec

DEVICES = 4
ACCUMULATE = 4

Variants = Mapping[str, str | Mapping[str, Any]]

# Table 1 of the paper as far as its rows are options; it has (a) to (c) with
# `res5`. As in the official code, stages with the attention have global context
# blocks too, and the networks of (e) have neither.
ABLATIONS: Variants = {
  # (a) where a frame looks: the same place, a grid around it
  "colocated": {"temporal": {"offsets": "none", "kernel": 1}},
  "regular": {"temporal": {"offsets": "none"}},
  # (b) what the offsets are predicted from
  "next": {"temporal": {"offsets": "next"}},
  "conv3d": {"temporal": {"offsets": "conv3d"}},
  "difference": {"temporal": {"offsets": "difference"}},
  # the paper's equation, to which the official code adds the next frame
  "saliency": {"temporal": {"offsets": "saliency"}},
  # (c) neighbours
  "k1": {"temporal": {"kernel": 1}},
  "k5": {"temporal": {"kernel": 5}},
  "k7": {"temporal": {"kernel": 7}},
  "k9": {"temporal": {"kernel": 9}},
  # (d) stages
  "res5": {"blocks": ("B", "B", "B", "GB"), "temporal": {"stages": (3,)}},
  "res4-5": {"blocks": ("B", "B", "GB", "GB"), "temporal": {"stages": (2, 3)}},
  "res2-5": {"blocks": ("GB",) * 4, "temporal": {"stages": (0, 1, 2, 3)}},
  # no row of the paper: what the global context blocks do on their own
  "context": {"temporal": {"op": "none"}},
  # (e) other ways to join frames
  "c2d": "c2d_r50_16f_k400",
  "temporal_conv": "temporal_conv_r50_16f_k400",
  "tsm": "tsm_r50_16f_k400",
}


def recipe(c: ml_collections.ConfigDict, model: str) -> None:
  """Puts a registered model and its data on a page."""
  common.set_model(c, model)
  c.data.update(
    {
      "frames": model_spec(model).frames,
      "sampling": "snippets",
      "stride": 1,
      "crop": "inception",
      "area": (0.2, 1.0),
      "flip": 0.5,
      "auto_augment": "moco_v2",
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
      "prefetch": 2,  # a batch has up to 0.9 GB
    }
  )
  c.schedule.update({"name": "gradual_cosine", "warmup_factor": 0.01})
  c.eval.update(
    {"clips": 1, "crops": 1, "crop_style": "torchvision", "fusion": "softmax"}
  )


def net(
  c: ml_collections.ConfigDict,
  model: str,
  variant: str,
  *,
  clips: int,
  variants: Variants | None = None,
) -> None:
  """Puts a SIFA-Net and the recipe of Kinetics-400 on a page.

  Args:
    c: the page.
    model: registered name.
    variant: of the page.
    clips: on each device, in a micro-batch.
    variants: of the model, see `common.apply_variant`.
  """
  recipe(c, model)
  sgd(c, clips=clips, base_lr=0.04, loss_weight=4)
  c.train.epochs = 64.0
  c.schedule.warmup_epochs = 1.0
  c.eval.every_epochs = 10.0
  finish(c, variant, variants)


def sgd(
  c: ml_collections.ConfigDict,
  *,
  clips: int,
  base_lr: float,
  loss_weight: float | int,
) -> None:
  """Sets the batch and the official steps of SGD.

  The official loss of a micro-batch is multiplied by `loss_weight` and divided
  by their number before gradients are summed, so its gradient g is that many
  times ours: on Kinetics-400 it is the sum over the micro-batches. With its
  rate r, decay d and limit of the norm, the official step `r (clip(g) + d p)`
  is ours at the rate `r * loss_weight` when decay and limit are divided by it.
  """
  c.data.batch_size = clips * DEVICES * ACCUMULATE
  c.train.update({"accumulate": ACCUMULATE, "clip_norm": 40.0 / loss_weight})
  c.optimizer.update(
    {
      "name": "sgd",
      "momentum": 0.9,
      "nesterov": False,
      "weight_decay": 1e-4 / loss_weight,
    }
  )
  c.schedule.update(
    {"base_lr": base_lr * loss_weight, "final_lr": 1e-6 * loss_weight}
  )


def finish(
  c: ml_collections.ConfigDict,
  variant: str,
  variants: Variants | None = None,
) -> None:
  """Applies a page's variants; a SIFA-Net has batch norm by device."""
  names = [name for name in variant.split(",") if name]
  others = ",".join(name for name in names if name != "smoke")
  common.apply_variant(c, others, variants)
  c.model.bn_groups = DEVICES  # also of a model that a variant put there
  if "smoke" in names:
    common.smoke(c)
