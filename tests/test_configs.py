"""Every configuration page builds at full size and runs for two steps."""

import importlib
import json
import pathlib

import jax
import pytest

from tests import oracles
from vidjax.checks import Config
from vidjax.models.registry import model_spec
from vidjax.nn.functional import split
from vidjax.train import loop
from vidjax.train.run import abstract_model, build

PAGES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
  if path.stem not in ("__init__", "common")
  and not path.stem.endswith("_recipe")
)
# Pages whose train step is that of another page with other sizes, in smoke runs
# too: what a build traces, the forward pass, is enough of them.
LIKE_OTHERS = {
  "sifa_r50_k400_32",
  "sifa_r50_k400_64",
  "sifa_r101_k400_16",
  "sifa_r101_k400_32",
  "sifa_r101_k400_64",
  "tps_base_k400",
  "tps_base_ssv2",
  "xvit_k600",
}
MOTION_VARIANTS = ("spatial", "joint", "timesformer", "tsm", "tokshift")


def get_config(page: str, variant: str = "") -> Config:
  return importlib.import_module(f"configs.{page}").get_config(variant)


def test_pages_are_found():
  assert {"xvit_k400", "xvit_k600", "xvit_ssv2", "xvit_motion"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_full_size(page):
  config = get_config(page)
  if config.mesh.frames > 1:  # more devices than there are
    config.mesh.frames = 1
  run = build(config, total_steps=1000, steps_per_epoch=10)
  _, params, _ = split(abstract_model(config))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert run.parameters == count
  if not page.endswith("_long"):
    assert config.data.frames == model_spec(config.model.name).frames
  if page in LIKE_OTHERS:
    return
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
  [(page, "smoke") for page in PAGES if page not in LIKE_OTHERS]
  + [("xvit_motion", f"{name},smoke") for name in MOTION_VARIANTS],
)
def test_smoke_run(page, variant, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  summary = loop.train(get_config(page, variant), tmp_path)
  assert summary["steps"] == 2
  assert summary["eval/videos"] == 12
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  by_step = [json.loads(line) for line in lines]
  assert [x["step"] for x in by_step if "train/loss" in x] == [1, 2]
  assert all(x.get("train/loss", 1.0) > 0 for x in by_step)
  assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", sorted(LIKE_OTHERS))
def test_smoke_run_is_small(page):
  config = get_config(page, "smoke")
  run = build(config, total_steps=2, steps_per_epoch=2)
  assert run.parameters < 100_000


def test_unknown_variant():
  with pytest.raises(ValueError, match="no variant 'big'; use one of smoke"):
    get_config("xvit_k400", "big")


def test_pages_are_locked():
  with pytest.raises(AttributeError, match="batchsize"):
    get_config("xvit_k400").data.batchsize = 8
