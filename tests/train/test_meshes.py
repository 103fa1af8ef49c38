"""Training of all four systems on meshes of many shapes: as on one device.

The parts that need eight devices run in one child process, by `main` below.
"""

import importlib
import json

import jax
import numpy as np
import pytest

from tests import on_devices, oracles
from vidjax.nn.functional import split
from vidjax.train.run import abstract_model, build
from vidjax.train.sharding import input_sharding, make_mesh
from vidjax.train.sharding_table import describe

STEPS, BATCH, FRAMES = 3, 8, 8
ALONE = (1, 1, 1, 1)
MESHES = [(8, 1, 1, 1), (2, 2, 2, 1), (1, 1, 8, 1), (1, 2, 1, 4)]
PAGES = {
  "xvit_motion": {"dim": 32, "depth": 1, "dropout_rate": 0.5},
  "tps_motion": {
    "dim": 16,
    "depths": (1, 1),
    "heads": (2, 4),
    "window": (1, 2, 2),
    "drop_path": 0.3,
  },
  "laps_motion": {"dim": 32, "depths": (1, 1, 1), "drop_path": 0.3},
  "sifa_motion": {
    "dim": 8,
    "depths": (1, 2),
    "blocks": ("B", "GB"),
    "stem_frames": 1,
  },
}


def page(name: str, sizes: tuple[int, ...]):
  config = importlib.import_module(f"configs.{name}").get_config("smoke")
  config.model.update(PAGES[name])
  if name == "sifa_motion":
    config.model.temporal.stages = (1,)
  config.data.update({"frames": FRAMES, "batch_size": BATCH, "image_size": 32})
  config.model.image_size = 32
  axes = ("data", "fsdp", "frames", "tensor")
  config.mesh.update(dict(zip(axes, sizes, strict=True)))
  return config


def batch(seed: int, mesh) -> dict:
  rng = np.random.default_rng(seed)
  arrays = {
    "video": rng.integers(0, 256, (BATCH, FRAMES, 32, 32, 3)).astype(np.uint8),
    "label": rng.integers(0, 12, BATCH).astype(np.int32),
    "erase": np.zeros((BATCH, 4), np.int32),
    "weight": np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32),
  }
  return {
    name: jax.device_put(array, input_sharding(name, array.shape, mesh))
    for name, array in arrays.items()
  }


def train(name: str, sizes: tuple[int, ...]) -> dict:
  """Losses and gradient norms of some steps, and statistics of the first."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", oracles.jit)
    run = build(
      page(name, sizes),
      total_steps=10,
      steps_per_epoch=5,
      devices=jax.devices()[: int(np.prod(sizes))],
    )
  state = run.init(jax.random.key(0))
  found: dict = {"loss": [], "gradient_norm": []}
  for step in range(STEPS):
    state, metrics = run.train_step(state, batch(step, run.mesh))
    # Of the first step: Adam makes steps of rounding errors.
    found.setdefault("stats", leaves(state.stats))
    for key in ("loss", "gradient_norm"):
      found[key].append(float(metrics[key]))
  return found


def leaves(tree) -> list[list[float]]:
  return [np.ravel(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def main() -> None:
  """Prints what up to eight devices do."""
  print(
    json.dumps(
      {
        name: [train(name, sizes) for sizes in (ALONE, *MESHES)]
        for name in PAGES
      }
    )
  )


@pytest.mark.slow
def test_a_mesh_does_not_change_the_training(compile_cache):
  """One test: several would start the child process in several workers."""
  eight = on_devices.results(__name__, compile_cache)
  for name, (alone, *others) in eight.items():
    assert len(set(alone["loss"])) == STEPS
    for sizes, found in zip(MESHES, others, strict=True):
      where = f"{name} on {sizes}"
      for key, rtol in (("loss", 1e-5), ("gradient_norm", 1e-4)):
        np.testing.assert_allclose(
          found[key], alone[key], rtol=rtol, err_msg=where
        )
      for values, wanted in zip(found["stats"], alone["stats"], strict=True):
        np.testing.assert_allclose(
          values, wanted, rtol=1e-4, atol=1e-5, err_msg=where
        )


def test_the_table_of_shardings():
  config = page("xvit_motion", (1, 2, 1, 4))
  devices = np.full((1, 2, 1, 4), jax.devices()[0])
  mesh = jax.sharding.Mesh(devices, make_mesh().axis_names)
  lines = describe(config, mesh).splitlines()
  assert lines[0].endswith("data=1 x fsdp=2 x frames=1 x tensor=4")
  rows = {line.split("  ")[0]: line.split() for line in lines}
  assert rows["blocks/0/attention/qkv/kernel"][1:] == [
    *("32", "x", "96", "fsdp", "x", "tensor"),
    f"{4 * 32 * 96 // 8:,}",
  ]
  assert rows["norm/scale"][1:] == ["32", "-", "128"]
  _, params, _ = split(abstract_model(config))
  total = int(lines[-1].split()[4].replace(",", ""))
  whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
  assert whole / 8 < total < whole / 3
