"""Models on clips whose frames are split over devices: as on one device.

The parts that need eight devices run in one child process, by `main` below.
"""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from tests import on_devices, oracles
from vidjax.models.registry import create_model
from vidjax.models.resnet import SIFA
from vidjax.nn.functional import merge, split
from vidjax.tools.hlo import collectives, parse
from vidjax.train.sharding import input_sharding, make_mesh, on_mesh

IMAGE = 32
# Registered models, made small.
MODELS = {
  "xvit": (
    "xvit_motion",
    {"depth": 2, "dim": 32, "heads": 4, "temporal": {"op": "mixing"}},
  ),
  "pst": (
    "pst_motion",
    {"depths": (1, 2), "dim": 16, "heads": (2, 4), "window": (1, 2, 2)},
  ),
  "laps": (
    "laps_visformer_motion",
    {"dim": 32, "depths": (1, 1, 2), "heads": 2, "stem_width": 8},
  ),
  "sifa": (
    "sifa_motion",
    {
      "dim": 8,
      "depths": (1, 2, 2),
      "blocks": ("B", "GT", "MB"),  # all kinds
      "stem_frames": 2,
      "temporal": {**SIFA, "stages": (1, 2)},
    },
  ),
  "sifa swin": (
    "pst_motion",
    {
      "depths": (1, 2),
      "dim": 16,
      "heads": (2, 4),
      "window": (1, 2, 2),
      "temporal": {"op": "interframe", "window": 2, "offsets": "conv3d"},
    },
  ),
}
# Frames of the clip, devices for clips and for frames.
MESHES = {
  "xvit": [(8, 2, 4), (1024, 1, 8)],
  "pst": [(8, 1, 8), (32, 2, 2)],
  "laps": [(16, 2, 4)],
  "sifa": [(32, 2, 4)],
  "sifa swin": [(8, 2, 4)],
}
# As many frames on each of more devices, and more frames on each.
WEAK = {
  "xvit": [(16, 4), (32, 8), (32, 4)],
  "pst": [(32, 4), (64, 8), (64, 4)],
}


@functools.cache
def model(name: str, frames: int):
  """Definition, random parameters and statistics."""
  registered, options = MODELS[name]
  if "pst" in registered:
    options = options | {"bias_frames": frames}
  made = nnx.eval_shape(
    lambda: create_model(
      registered, num_classes=5, image_size=IMAGE, rngs=nnx.Rngs(0), **options
    )
  )
  definition, params, stats = split(made)

  def draw(path, leaf):
    gain = path[-1].key in ("scale", "var")
    seed = sum(map(ord, jax.tree_util.keystr(path)))
    fan_in = math.prod(leaf.shape[:-1])
    return gain + 0.5 * oracles.normal(*leaf.shape, seed=seed) * fan_in**-0.5

  params = jax.tree_util.tree_map_with_path(draw, params)
  stats = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.full(leaf.shape, path[-1].key == "var", np.float32),
    stats,
  )
  return definition, params, stats


def function(name: str, frames: int):
  """From parameters and clips to logits, and to gradients of both."""
  definition, _, stats = model(name, frames)

  def weighted(params, video):
    heads = merge(definition, params, stats).head_logits(video)
    logits = jnp.concatenate(heads, axis=-1)
    return (logits * jnp.cos(jnp.arange(logits.shape[-1]))).sum(), logits

  return oracles.jit(jax.grad(weighted, (0, 1), has_aux=True))


def clips(frames: int, mesh=None, batch: int = 2):
  video = oracles.normal(batch, frames, IMAGE, IMAGE, 3)
  if mesh is None:
    return jnp.asarray(video)
  return jax.device_put(video, input_sharding("video", video.shape, mesh))


def compare(name: str, frames: int, data: int, shards: int) -> list[float]:
  """Largest differences over the largest number: logits, both gradients."""
  params = model(name, frames)[1]
  alone = function(name, frames)(params, clips(frames))
  mesh = make_mesh(
    data=data, frames=shards, devices=jax.devices()[: data * shards]
  )
  apart = on_mesh(mesh, function(name, frames))(params, clips(frames, mesh))

  def error(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    differences = [
      np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs
    ]
    return float(max(differences)) / float(
      max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(b))
    )

  (gradients, logits), (wanted, right) = apart, alone
  return [error(logits, right), *map(error, gradients, wanted)]


def exchanged(name: str, frames: int, shards: int) -> dict:
  """What a device exchanges in a forward and backward pass; its memory."""
  mesh = make_mesh(frames=shards, devices=jax.devices()[:shards])
  whole = NamedSharding(mesh, jax.sharding.PartitionSpec())
  video = clips(frames, mesh)
  params = jax.device_put(model(name, frames)[1], whole)
  compiled = on_mesh(mesh, function(name, frames).lower)(
    params, video
  ).compile()
  traffic = collectives(parse(compiled.as_text()))
  return {
    "traffic": {kind: [x.count, x.bytes] for kind, x in traffic.items()},
    "memory": compiled.memory_analysis().temp_size_in_bytes,
  }


def main() -> None:
  """Prints what up to eight devices do."""
  found: dict = {"errors": {}, "exchanged": {}}
  for name, cases in MESHES.items():
    for case in cases:
      found["errors"][f"{name} {case}"] = compare(name, *case)
  for name, cases in WEAK.items():
    found["exchanged"][name] = [exchanged(name, *case) for case in cases]
  found["memory"] = [exchanged("xvit", 64, n)["memory"] for n in (1, 2, 4, 8)]
  print(json.dumps(found))


@pytest.mark.slow
def test_frames_over_devices(compile_cache):
  """One test: several would start the child process in several workers."""
  eight = on_devices.results(__name__, compile_cache)
  for case, errors in eight["errors"].items():
    assert max(errors) < 1e-5, case
  assert len(eight["errors"]) == sum(map(len, MESHES.values()))
  for cases in eight["exchanged"].values():
    check_traffic(*(case["traffic"] for case in cases))
  memory = eight["memory"]
  assert memory == sorted(memory, reverse=True)
  assert memory[-1] < memory[0] / 4  # what all devices have does not fall


def check_traffic(few: dict, many: dict, longer: dict) -> None:
  """Permutations carry what crosses a border, whatever lies between borders."""
  permuted = many["collective-permute"]
  assert permuted[0] > 0
  assert few["collective-permute"] == permuted == longer["collective-permute"]
  assert few.keys() <= {"collective-permute", "all-reduce", "all-gather"}
  # What every frame has one of: the head's tokens, a table of each frame.
  for traffic in (few, many, longer):
    assert traffic.get("all-gather", [0, 0])[1] <= 64 * 32 * 4
