"""What the LAPS and TokShift pages share: the released recipe (ACM MM 2022).

SGD with momentum and no weight decay, 18 epochs, a rate that falls to a tenth
after epochs 10 and 15, and 10 micro-batches a step; an epoch ends with a step
of what is left. Batches and rates are those of the released pages on the number
of devices that the rates tell.
"""

import dataclasses
from collections.abc import Mapping

import ml_collections

from configs import common

ACCUMULATE = 10
VISFORMER_DEVICES = 8
VIT_DEVICES = 4


@dataclasses.dataclass(frozen=True)
class Setup:
  """A model and what its page sets with it.

  Attributes:
    model: registered name.
    clips: on each device, in a micro-batch.
    base_lr: learning rate.
    frames: of a clip.
    jitter: range of the short side.
  """

  model: str
  clips: int
  base_lr: float
  frames: int = 8
  jitter: tuple[int, int] = (224, 360)


def visformer(
  c: ml_collections.ConfigDict,
  variant: str,
  default: Setup,
  variants: Mapping[str, Setup],
) -> None:
  """Puts a Visformer and its recipe on a page, and applies its variants.

  Batch norm takes the statistics of each of 8 devices, as if they were
  official GPUs.
  """
  _recipe(c)
  c.data.update(
    {
      "stride": 8,
      # ImageNet's means plus 0.001, as released.
      "mean": (0.486, 0.457, 0.407),
      "std": (0.229, 0.224, 0.225),
    }
  )
  c.train.precise_bn_batches = 200
  rest = _choose(c, variant, default, variants, VISFORMER_DEVICES)
  c.model.bn_groups = VISFORMER_DEVICES
  common.apply_variant(c, rest, _models(variants))


def vit(
  c: ml_collections.ConfigDict,
  variant: str,
  stride: int,
  default: Setup,
  variants: Mapping[str, Setup],
) -> None:
  """Puts a ViT and its recipe on a page, and applies its variants."""
  _recipe(c)
  c.data.stride = stride
  rest = _choose(c, variant, default, variants, VIT_DEVICES)
  common.apply_variant(c, rest, _models(variants))


def _recipe(c: ml_collections.ConfigDict) -> None:
  c.data.update(
    {
      "sampling": "dense_loop",
      "crop": "jitter",
      "flip": 0.5,
      "auto_augment": "photometric",
      "prefetch": 1,  # a batch has up to 4 GB
    }
  )
  c.train.update(
    {
      "epochs": 18.0,
      "label_smoothing": 0.1,
      "accumulate": ACCUMULATE,
      "partial_groups": True,
      "clip_norm": 1.0,
    }
  )
  c.optimizer.update(
    {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
  )
  c.schedule.update(
    {
      "name": "steps",
      "warmup_epochs": 0.0,
      "decay_epochs": (10, 15),
      "decay_factor": 0.1,
    }
  )
  c.eval.update({"clips": 1, "crops": 3, "fusion": "logits"})


def _choose(
  c: ml_collections.ConfigDict,
  variant: str,
  default: Setup,
  variants: Mapping[str, Setup],
  devices: int,
) -> str:
  """Applies the last setup that is named; returns the other variants."""
  names = [name for name in variant.split(",") if name]
  chosen = [name for name in names if name in variants]
  c.name += "".join(f", {name}" for name in chosen)
  setup = variants[chosen[-1]] if chosen else default
  common.set_model(c, setup.model)
  c.data.update(
    {
      "batch_size": setup.clips * devices * ACCUMULATE,
      "frames": setup.frames,
      "jitter": setup.jitter,
    }
  )
  c.schedule.base_lr = setup.base_lr
  return ",".join(name for name in names if name not in variants)


def _models(variants: Mapping[str, Setup]) -> dict[str, str]:
  return {name: setup.model for name, setup in variants.items()}
