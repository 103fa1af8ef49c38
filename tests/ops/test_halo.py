"""Operations between frames that are split over devices: as on one device.

The parts that need eight devices run in one child process, by `main` below.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests import on_devices, oracles
from vidjax.nn.interframe import three_frames
from vidjax.ops import halo
from vidjax.ops.channel_shift import shift_channels
from vidjax.ops.leap import leap_pairs, leaps_over_shards, partners, unpair
from vidjax.ops.mixing import mix_frames
from vidjax.ops.patch_shift import PATTERNS, mosaic, moves, shift_patches
from vidjax.ops.periodic_shift import periodic_shift
from vidjax.train.sharding import make_mesh, on_mesh

TOKENS, CHANNELS = 9, 16
# Clips and shards: one frame each, several, an odd number of shards, many.
SPLITS = [(8, 8), (16, 2), (24, 4), (24, 6), (1024, 8)]
OFFSETS = {name: mosaic(name, 3, 3) for name in ("a3", "c9")}
OPERATIONS = {
  "mix": functools.partial(mix_frames, segment=None),
  "mix far": functools.partial(mix_frames, window=3, shift_div=2),
  "mix in eights": functools.partial(mix_frames, segment=8),
  "mix in twos": functools.partial(mix_frames, segment=2, window=2),
  "mix heads": functools.partial(mix_frames, heads=2, window=2),
  "channels": lambda x: shift_channels(x, (-1, 1, 5), 4),
  "channels kept": lambda x: shift_channels(x, (-1, 1, 5), 4, border="keep"),
  "periodic": functools.partial(periodic_shift, heads=4, fold_div=4),
  "patches a3": functools.partial(shift_patches, offsets=OFFSETS["a3"]),
  "patches c9": functools.partial(shift_patches, offsets=OFFSETS["c9"]),
  "patches d16": functools.partial(
    shift_patches, offsets=np.array(PATTERNS["d16"]).reshape(-1)[-TOKENS:]
  ),
  "three frames": three_frames,
  "pairs, 1": functools.partial(leap_pairs, level=1),
  "pairs, 3": functools.partial(leap_pairs, level=3),
  "there and back": lambda x: unpair(leap_pairs(x, 3), 3),
}


def pairs_by_partners(x, level):
  """The tokens of both frames of every pair, by swapping whole shards."""
  if not leaps_over_shards(x.shape[1], level):
    return x
  return jnp.concatenate([x, partners(x, level)], axis=2)


def both(operation, x, g):
  """The result, and the gradient of its product with g."""
  y, back = jax.vjp(operation, x)
  return y, *back(g[..., : y.shape[-1]].reshape(-1)[: y.size].reshape(y.shape))


def split(mesh, x):
  even = x.shape[1] % mesh.shape["frames"] == 0
  spec = PartitionSpec("data", "frames" if even else None)
  return jax.device_put(x, NamedSharding(mesh, spec))


def difference(operation, frames: int, mesh) -> float:
  """The largest difference of result and gradient, on the mesh and alone."""
  x = oracles.normal(2, frames, TOKENS, CHANNELS)
  g = oracles.normal(2, frames, TOKENS, 3 * CHANNELS, seed=1)
  function = functools.partial(both, operation)
  alone = oracles.jit(function)(x, g)
  apart = on_mesh(mesh, oracles.jit(function))(split(mesh, x), g)
  return max(
    float(jnp.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(alone, apart, strict=True)
  )


def main() -> None:
  """Prints what up to eight devices do."""
  found: dict = {"operations": {}, "partners": {}}
  for frames, shards in SPLITS:
    mesh = make_mesh(frames=shards, devices=jax.devices()[:shards])
    for name, operation in OPERATIONS.items():
      found["operations"][f"{name}, {frames} / {shards}"] = difference(
        operation, frames, mesh
      )
    for level in (1, 2, 3):
      x = oracles.normal(1, frames, 2, 1)
      function = functools.partial(pairs_by_partners, level=level)
      y = on_mesh(mesh, oracles.jit(function))(split(mesh, x))
      if y.shape != x.shape:
        distance = frames >> level
        second = np.arange(frames) // distance % 2 == 1
        places = np.arange(frames) + np.where(second, -distance, distance)
        want = np.concatenate([x, x[:, places]], axis=2)
        found["partners"][f"{frames} / {shards}, {level}"] = float(
          np.abs(want - y).max()
        )
  mesh = make_mesh(data=2, frames=4)
  x = split(mesh, oracles.normal(2, 8, 3, 4))
  sent = on_mesh(
    mesh,
    oracles.jit(
      lambda x: halo.over_frames(lambda x: halo.frames_from(x, -3, 8), x)
    ),
  )(x)
  found["halo"] = np.asarray(sent).tolist()
  found["uneven"] = difference(
    OPERATIONS["mix"], 6, make_mesh(data=2, frames=4)
  )
  print(json.dumps(found))


@pytest.fixture(scope="module")
def eight(compile_cache) -> dict:
  return on_devices.results(__name__, compile_cache)


@pytest.mark.parametrize(("frames", "shards"), SPLITS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_shards_give_what_one_device_does(name, frames, shards, eight):
  # Values are moved and not computed, so they are equal to the bit.
  assert eight["operations"][f"{name}, {frames} / {shards}"] == 0


def test_partners_are_swapped(eight):
  """Where the leap is a multiple of a shard's frames."""
  assert eight["partners"].keys() == {
    f"{frames} / {shards}, {level}"
    for frames, shards in SPLITS
    for level in (1, 2, 3)
    if (frames >> level) % (frames // shards) == 0
  }
  assert not any(eight["partners"].values())


def test_frames_of_two_shards_away(eight):
  x = np.pad(oracles.normal(2, 8, 3, 4), [(0, 0), (3, 3), (0, 0), (0, 0)])
  want = np.concatenate([x[:, s : s + 8] for s in (0, 2, 4, 6)], axis=1)
  np.testing.assert_array_equal(eight["halo"], want)


def test_frames_that_do_not_divide_stay_together(eight):
  assert eight["uneven"] == 0


def test_without_a_mesh_nothing_is_split():
  x = jnp.asarray(oracles.normal(1, 4, 2, 3))
  assert halo.frame_shards(4) == halo.axis_size() == 1
  assert halo.split_frames(x) is x
  assert halo.gather_frames(x) is x
  np.testing.assert_array_equal(halo.over_frames(lambda x: 2 * x, x), 2 * x)
  ahead = halo.frames_from(x, 2, 4)
  np.testing.assert_array_equal(ahead[:, :2], x[:, 2:])
  np.testing.assert_array_equal(ahead[:, 2:], 0 * x[:, 2:])
  ends = halo.outside(x, -1)
  assert ends.reshape(-1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("frames", [1, 3, 16])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_moves_bring_every_token_of_the_clip_once(frames, shards):
  """Against frame numbers: each shard puts together what source_frames says."""
  offsets = tuple(mosaic("c9", 4, 5).tolist())
  n, total = len(offsets), frames * shards
  clip = np.arange(total * n).reshape(shards, frames * n)
  found = moves(frames, shards, offsets)
  for shard in range(shards):
    received = [
      clip[(shard + distance) % shards][index]
      for distance, index in found.given.items()
    ]
    shifted = np.concatenate([clip[shard], *received])[found.places]
    t = np.arange(shard * frames, (shard + 1) * frames)[:, None]
    source = (t - np.array(offsets)) % total * n + np.arange(n)
    np.testing.assert_array_equal(shifted.reshape(frames, n), source)


def test_only_tokens_that_cross_a_border_are_given():
  """Pattern c9: offsets 1 to 4 of a token each, both ways, 1 + 2 + 3 + 4."""
  given = moves(64, 8, tuple(OFFSETS["c9"].tolist())).given
  assert {hop: len(index) for hop, index in given.items()} == {1: 10, 7: 10}
