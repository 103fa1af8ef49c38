"""Every configuration page builds at full size and runs for two steps."""

import importlib
import json
import pathlib

import jax
import pytest

from vidjax.checks import Config
from vidjax.models.registry import model_spec
from vidjax.nn.functional import split
from vidjax.train import loop
from vidjax.train.optim import decay_mask
from vidjax.train.run import abstract_model, build

PAGES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
  if path.stem not in ("__init__", "common", "laps_recipe", "tps_recipe")
)
MOTION_VARIANTS = ("spatial", "joint", "timesformer", "tsm", "tokshift")


def get_config(page: str, variant: str = "") -> Config:
  return importlib.import_module(f"configs.{page}").get_config(variant)


def test_pages_are_found():
  assert {"xvit_k400", "xvit_k600", "xvit_ssv2", "xvit_motion"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_full_size(page):
  config = get_config(page)
  run = build(config, total_steps=1000, steps_per_epoch=10)
  _, params, _ = split(abstract_model(config))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert run.parameters == count
  assert config.data.frames == model_spec(config.model.name).frames
  video = (config.data.batch_size, config.data.frames)
  size = config.data.image_size
  batch = {
    "video": jax.ShapeDtypeStruct((*video, size, size, 3), "uint8"),
    "label": jax.ShapeDtypeStruct(video[:1], "int32"),
    "erase": jax.ShapeDtypeStruct((video[0], 4), "int32"),
    "weight": jax.ShapeDtypeStruct(video[:1], "float32"),
  }
  state, metrics = jax.eval_shape(run.train_step, run.abstract_state, batch)
  assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(
    lambda x: x.shape, run.abstract_state
  )
  assert metrics["loss"].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("page", "variant"),
  [(page, "smoke") for page in PAGES]
  + [("xvit_motion", f"{name},smoke") for name in MOTION_VARIANTS],
)
def test_smoke_run(page, variant, tmp_path):
  summary = loop.train(get_config(page, variant), tmp_path)
  assert summary["steps"] == 2
  assert summary["eval/videos"] == 12
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  by_step = [json.loads(line) for line in lines]
  assert [x["step"] for x in by_step if "train/loss" in x] == [1, 2]
  assert all(x.get("train/loss", 1.0) > 0 for x in by_step)
  assert (tmp_path / "report.html").stat().st_size > 10_000


# The released recipes (Bulat et al. 2021, official configuration files).
RECIPES = {
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
RECIPES["xvit_k600"] = RECIPES["xvit_k400"] | {"model.num_classes": 600}
COMMON = {
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


@pytest.mark.parametrize("page", RECIPES)
def test_recipe_is_the_released_one(page):
  config = get_config(page)
  for key, value in (COMMON | RECIPES[page]).items():
    found = config
    for part in key.split("."):
      found = found[part]
    assert found == value, key


@pytest.mark.parametrize("page", ["xvit_k400", "xvit_ssv2"])
def test_only_the_classifiers_biases_escape_weight_decay(page):
  config = get_config(page)
  _, params, _ = split(abstract_model(config))
  mask = decay_mask(params, config.optimizer.no_decay)
  exempt = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, decays in jax.tree_util.tree_leaves_with_path(mask)
    if not decays
  }
  assert exempt == {"head/norm/bias", "head/fc1/bias", "head/fc2/bias"}


def test_unknown_variant():
  with pytest.raises(ValueError, match="no variant 'big'; use one of smoke"):
    get_config("xvit_k400", "big")


def test_pages_are_locked():
  with pytest.raises(AttributeError, match="batchsize"):
    get_config("xvit_k400").data.batchsize = 8
