"""The pages say what the released training configurations say."""

import importlib

import jax
import numpy as np
import optax
import pytest

from configs import sifa_recipe, tps_recipe
from vidjax.checks import Config
from vidjax.nn.functional import split
from vidjax.train.optim import decay_mask, lr_factors, make_optimizer
from vidjax.train.run import abstract_model


def get_config(page: str, variant: str = "") -> Config:
  return importlib.import_module(f"configs.{page}").get_config(variant)


# The released recipes (Bulat et al. 2021, official configuration files).
XVIT_PAGES = {
  "xvit_k400": {
    "model.num_classes": 400,
    "model.temporal.shift_div": 8,
    "model.temporal.segment": 8,
    "train.label_smoothing": 0.3,
    "train.mixup_alpha": 0.4,
    "train.epochs": 30,
    "data.erase": 0.0,
    "data.flip": 0.5,
    "data.sampling": "dense",
    "data.stride": 16,
    "schedule.warmup_lr": 0.01,
    "optimizer.weight_decay": 1e-5,
    "eval.clips": 1,
  },
  "xvit_ssv2": {
    "model.num_classes": 174,
    "model.temporal.shift_div": 4,
    "model.temporal.segment": None,
    "train.label_smoothing": 0.0,
    "train.mixup_alpha": 0.0,
    "train.epochs": 35,
    "data.erase": 0.5,
    "data.flip": 0.0,
    "data.sampling": "segments",
    "schedule.warmup_lr": 0.003,
    "optimizer.weight_decay": 1e-4,
    "eval.clips": 2,
  },
}
XVIT_PAGES["xvit_k600"] = XVIT_PAGES["xvit_k400"] | {"model.num_classes": 600}
XVIT = {
  "data.batch_size": 64,
  "data.frames": 16,
  "data.image_size": 224,
  "data.auto_augment": "v0",
  "model.temporal.mix": "kv",
  "model.temporal.window": 1,
  "model.temporal_positions": 8,
  "model.dropout_rate": 0.5,
  "model.drop_path": 0.0,
  "model.head.layers": 1,
  "model.head.heads": 12,
  "optimizer.name": "sgd",
  "optimizer.momentum": 0.9,
  "schedule.base_lr": 0.03,
  "schedule.warmup_epochs": 5.0,
  "train.clip_norm": 0.0,
  "train.ema_decay": 0.0,
  "eval.crops": 3,
  "eval.fusion": "logits",
}

# Xiang et al. 2022: Swin-T on 8 devices with 8 clips each.
TPS = {
  "data.batch_size": 64,
  "data.frames": 32,
  "data.image_size": 224,
  "data.crop": "resized",
  "data.resize_side": 256,
  "data.flip": 0.5,
  "data.mean": (0.485, 0.456, 0.406),
  "data.std": (0.229, 0.224, 0.225),
  "model.patch_size": (2, 4, 4),
  "model.window": (1, 7, 7),
  "model.temporal.op": "patch_shift",
  "model.temporal.schedule": "pst",
  "model.temporal.pattern": "c9",
  "model.bias_frames": 16,
  "model.bias_key_frame": "first",
  "model.dropout_rate": 0.5,
  "train.epochs": 30,
  "train.clip_norm": 0.0,
  "optimizer.name": "adamw",
  "optimizer.betas": (0.9, 0.999),
  "optimizer.weight_decay": 0.02,
  "schedule.name": "epoch_cosine",
  "schedule.base_lr": 1e-3,
  "schedule.final_lr": 0.0,
  "schedule.warmup_epochs": 2.5,
  "schedule.warmup_factor": 0.1,
  "eval.crops": 3,
  "eval.crop_style": "mmaction",
  "eval.short_side": 0,
  "eval.fusion": "softmax",
}
TPS_DENSE = TPS | {
  "data.sampling": "strided",
  "data.stride": 2,
  "data.auto_augment": "none",
  "data.erase": 0.0,
  "data.no_flip_labels": (),
  "train.label_smoothing": 0.0,
  "eval.clips": 4,
}
TPS_SEGMENTS = TPS | {
  "data.sampling": "segments",
  "data.auto_augment": "imgaug",
  "data.erase": 0.25,
  "data.no_flip_labels": (86, 87, 93, 94, 166, 167),
  "train.label_smoothing": 0.1,
  "eval.clips": 1,
}
SMALL = {"model.dim": 96, "model.drop_path": 0.1}
BASE = {"model.dim": 128, "model.drop_path": 0.2}
TPS_PAGES = {
  "tps_k400": TPS_DENSE | SMALL | {"model.num_classes": 400},
  "tps_ssv1": TPS_SEGMENTS | SMALL | {"model.num_classes": 174},
  "tps_ssv2": TPS_SEGMENTS | SMALL | {"model.num_classes": 174},
  "tps_diving48": TPS_SEGMENTS
  | SMALL
  | {
    "model.num_classes": 48,
    "data.no_flip_labels": (),
    "train.label_smoothing": 0.02,
  },
  "tps_base_k400": TPS_DENSE | BASE | {"model.num_classes": 400},
  "tps_base_ssv2": TPS_SEGMENTS | BASE | {"model.num_classes": 174},
}
# Zhang et al. 2022: ten micro-batches a step.
LAPS = {
  "data.sampling": "dense_loop",
  "data.crop": "jitter",
  "data.flip": 0.5,
  "data.auto_augment": "photometric",
  "train.epochs": 18,
  "train.accumulate": 10,
  "train.partial_groups": True,
  "train.clip_norm": 1.0,
  "train.label_smoothing": 0.1,
  "optimizer.name": "sgd",
  "optimizer.momentum": 0.9,
  "optimizer.nesterov": False,
  "optimizer.weight_decay": 0.0,
  "schedule.name": "steps",
  "schedule.decay_epochs": (10, 15),
  "schedule.decay_factor": 0.1,
  "schedule.warmup_epochs": 0.0,
  "eval.fusion": "logits",
  "eval.crops": 3,
}
LAPS_PAGES = {
  "laps_k400_8x8": LAPS
  | {
    "data.frames": 8,
    "data.stride": 8,
    "data.jitter": (224, 360),
    "data.mean": (0.486, 0.457, 0.407),
    "data.std": (0.229, 0.224, 0.225),
    "data.batch_size": 40 * 8 * 10,
    "model.temporal.levels": (1, 2, 3),
    "model.temporal.fold_div": 4,
    "train.precise_bn_batches": 200,
    "schedule.base_lr": 0.2,
  },
  "laps_k400_32x8": LAPS
  | {
    "data.frames": 32,
    "data.stride": 8,
    "data.image_size": 320,
    "data.jitter": (320, 480),
    "model.temporal.levels": (1, 2, 3, 4, 5),
    "schedule.base_lr": 0.036,
  },
  "laps_vit_k400": LAPS
  | {
    "data.frames": 8,
    "data.stride": 8,
    "data.mean": (0.5, 0.5, 0.5),
    "model.temporal.levels": (1, 2, 3, 1),
    "train.precise_bn_batches": 0,
    "schedule.base_lr": 0.18,
  },
  "tokshift_k400": LAPS
  | {
    "data.frames": 8,
    "data.stride": 32,
    "model.temporal.op": "token_shift",
    "model.temporal.fold_div": 4,
    "schedule.base_lr": 0.24,
  },
}
# Long et al. 2022: 4 devices, 4 micro-batches whose gradients are summed.
SIFA = {
  "data.image_size": 224,
  "data.crop": "inception",
  "data.area": (0.2, 1.0),
  "data.sampling": "snippets",
  "data.stride": 1,
  "data.segments": 1,
  "data.flip": 0.5,
  "data.auto_augment": "moco_v2",
  "data.erase": 0.0,
  "data.mean": (0.485, 0.456, 0.406),
  "data.std": (0.229, 0.224, 0.225),
  "model.dropout_rate": 0.5,
  "train.label_smoothing": 0.0,
  "train.mixup_alpha": 0.0,
  "train.ema_decay": 0.0,
  "train.partial_groups": False,
  "schedule.name": "gradual_cosine",
  "schedule.warmup_factor": 0.01,
  "eval.clips": 1,
  "eval.crops": 1,
  "eval.crop_style": "torchvision",
  "eval.short_side": 0,
  "eval.fusion": "softmax",
}
SIFA_NET = SIFA | {
  "model.bn_groups": 4,
  "model.dual_head": True,
  "model.blocks": ("B", "GB", "GB", "GB"),
  "model.temporal.stages": (1, 2, 3),
  "model.temporal.offsets": "rescaled",
  "train.epochs": 64,
  "train.accumulate": 4,
  "optimizer.name": "sgd",
  "optimizer.momentum": 0.9,
  "optimizer.nesterov": False,
  "optimizer.no_decay": (),
}
SIFA_K400 = SIFA_NET | {
  "model.num_classes": 400,
  "train.clip_norm": 10.0,
  "optimizer.weight_decay": 2.5e-5,
  "schedule.base_lr": 0.16,
  "schedule.final_lr": 4e-6,
  "schedule.warmup_epochs": 1.0,
  "eval.every_epochs": 10.0,
}
SIFA_PAGES = {
  f"sifa_r{layers}_k400_{frames}": SIFA_K400
  | {
    "model.name": f"sifa_r{layers}_{frames}f_k400",
    "model.depths": (3, 4, 6 if layers == 50 else 23, 3),
    "data.frames": frames,
    "data.batch_size": 24 * 16 // frames * 4 * 4,
  }
  for layers in (50, 101)
  for frames in (16, 32, 64)
} | {
  "sifa_ssv1": SIFA_NET
  | {
    "model.name": "sifa_r50_16f_ssv1",
    "model.num_classes": 174,
    "data.frames": 16,
    "data.batch_size": 24 * 4 * 4,
    "data.segments": 16,
    "data.flip": 0.0,
    "train.clip_norm": 40.0,
    "optimizer.weight_decay": 1e-4,
    "schedule.base_lr": 0.02,
    "schedule.final_lr": 1e-6,
    "schedule.warmup_epochs": 5.0,
    "eval.every_epochs": 1.0,
  },
  "sifa_swin_b_k400": SIFA
  | {
    "model.name": "sifa_swin_b_64f_k400",
    "model.drop_path": 0.5,
    "data.frames": 64,
    "data.stride": 2,
    "data.batch_size": 64,
    "train.epochs": 30,
    "train.clip_norm": 40.0,
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.05,
    "schedule.base_lr": 3e-4,
    "schedule.warmup_epochs": 2.5,
  },
}
RECIPES = {
  **{page: XVIT | recipe for page, recipe in XVIT_PAGES.items()},
  **TPS_PAGES,
  **LAPS_PAGES,
  **SIFA_PAGES,
}


@pytest.mark.parametrize("page", RECIPES)
def test_recipe_is_the_released_one(page):
  config = get_config(page)
  for key, value in RECIPES[page].items():
    found = config
    for part in key.split("."):
      found = found[part]
    assert found == value, key


def by_path(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize("page", ["xvit_k400", "xvit_ssv2"])
def test_only_the_classifiers_biases_escape_weight_decay(page):
  config = get_config(page)
  _, params, _ = split(abstract_model(config))
  mask = decay_mask(params, config.optimizer.no_decay)
  exempt = {path for path, decays in by_path(mask).items() if not decays}
  assert exempt == {"head/norm/bias", "head/fc1/bias", "head/fc2/bias"}


@pytest.mark.parametrize("groups", tps_recipe.PARAMETER_GROUPS)
def test_parameter_groups_of_patch_shift(groups):
  """Executed: tables alone escape; intended: norms too, and tables are slow."""
  variant = "intended" if groups == "intended" else ""
  config = get_config("tps_k400", variant)
  _, params, _ = split(abstract_model(config))
  factors = by_path(lr_factors(params, config.optimizer.lr_multipliers))
  decays = by_path(decay_mask(params, config.optimizer.no_decay))
  assert len(factors) == 173
  for path, factor in factors.items():
    table, norm = path.endswith("/bias/table"), "norm" in path
    head = path.startswith("head/")
    if groups == "executed":
      assert factor == (1.0 if table or head else 0.1), path
      assert decays[path] == (not table), path
    else:
      assert factor == (1.0 if head else 0.1), path
      assert decays[path] == (not (table or norm)), path


@pytest.mark.parametrize(
  ("page", "rate", "loss_weight"),
  [("sifa_r50_k400_16", 0.04, 4), ("sifa_ssv1", 0.02, 1)],
)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_steps_of_sifa_are_those_of_the_official_loop(
  page, rate, loss_weight, size
):
  """Loss times weight / 4, gradients of 4 micro-batches summed, clipped at 40.

  Ours are averaged; the larger of the two gradients is clipped.
  """
  config = get_config(page)
  rng = np.random.default_rng(0)
  start = rng.normal(size=7).astype(np.float32)
  ours = {"kernel": jax.numpy.asarray(start)}
  optimizer = make_optimizer(
    config.optimizer,
    lambda step: config.schedule.base_lr,
    ours,
    clip_norm=config.train.clip_norm,
  )
  state = optimizer.init(ours)
  theirs, momentum = start.astype(np.float64), np.zeros(7)
  for _ in range(4):
    micro = size * rng.normal(size=(4, 7))
    total = (micro * loss_weight / 4).sum(0)
    total = total * min(1, 40 / (np.linalg.norm(total) + 1e-6))
    momentum = 0.9 * momentum + total + 1e-4 * theirs
    theirs = theirs - rate * momentum
    mean = {"kernel": jax.numpy.asarray(micro.mean(0), jax.numpy.float32)}
    updates, state = optimizer.update(mean, state, ours)
    ours = optax.apply_updates(ours, updates)
  np.testing.assert_allclose(ours["kernel"], theirs, rtol=1e-5, atol=1e-5)


def test_intended_augmentation_of_sifa():
  config = get_config("sifa_ssv1", "intended")
  assert config.data.auto_augment == "rand16-n2-m27"
  assert config.name.endswith(", intended augmentation")


@pytest.mark.parametrize("name", sifa_recipe.ABLATIONS)
def test_ablations_of_sifa_build(name):
  config = get_config("sifa_r50_k400_16", name)
  assert config.model.bn_groups == 4
  assert config.name.endswith(f", {name}")
  plain = get_config("sifa_r50_k400_16").model
  assert config.model.to_dict() != plain.to_dict()
  config.model.update({"depths": (1, 1, 1, 2), "dual_head": False})
  _, params, _ = split(abstract_model(config))
  assert params


@pytest.mark.parametrize(
  ("variant", "offsets"),
  [
    ("", [512, 512, 256, 128]),
    ("res5", [512, 512]),
    ("res4-5", [512, 512, 256]),
    ("res2-5", [512, 512, 256, 128, 64]),
    ("regular", []),
    ("context", []),
    ("c2d", []),
  ],
)
def test_stages_of_the_ablations_of_sifa(variant, offsets):
  """Channels of the convolutions that predict offsets, in both last stages."""
  config = get_config("sifa_r50_k400_16", variant)
  config.model.depths = (2, 2, 2, 2)
  model = abstract_model(config)
  blocks = [b for stage in model.stages for b in stage] + list(model.dual_stage)
  found = [
    block.temporal.attention.offset.conv.kernel.shape
    for block in blocks
    if getattr(getattr(block.temporal, "attention", None), "offset", None)
  ]
  assert sorted((shape[-2] for shape in found), reverse=True) == offsets
