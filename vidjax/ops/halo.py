"""Frames of a clip over the devices of a mesh, and what crosses a border.

A long clip is split along its frames over the mesh axis "frames". Layers that
see one frame at a time need nothing; an operation that looks at near frames
runs on each shard by itself (`over_frames`) and asks its neighbours for the
few frames behind the border (`frames_from`): a permutation of devices, whose
bytes do not grow with the frames of a shard.

All of it looks at the mesh in force (`jax.set_mesh`). Without one, or with an
axis of one device, the functions do nothing, and models need no second form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Shaped

AXIS = "frames"
_SPLIT = PartitionSpec(None, AXIS)

Clip = Shaped[Array, "b t *rest"]


def frame_shards(frames: int) -> int:
  """Returns over how many devices the frames of a clip are split.

  1 without a mesh, inside of `over_frames`, and, said in the log, if the
  frames do not divide over the axis: every device then has all of them.
  """
  shards = _axis_size(AxisType.Auto)
  if frames % shards:
    logging.log_first_n(
      logging.WARNING,
      "%d frames do not divide over mesh.frames=%d: they are not split there",
      8,
      frames,
      shards,
    )
    return 1
  return shards


def over_frames(f: Callable[[Any], Any], x: Clip) -> Any:
  """Returns `f(x)`, computed by each shard for its own frames.

  Args:
    f: from an array `(b t ...)` to such an array; t may change, in proportion.
      What it closes over (parameters) is the same on all shards.
    x: split along t where `frame_shards` says so.
  """
  if frame_shards(x.shape[1]) == 1:
    return f(x)
  return jax.shard_map(f, in_specs=_SPLIT, out_specs=_SPLIT, axis_names={AXIS})(
    x
  )


def frames_from(
  x: Clip, first: int, count: int, *, segment: int | None = None
) -> Clip:
  """Returns frames `first` to `first + count`, counted from the shard's first.

  Those of other shards come from there; outside of the clip they are zero.

  Args:
    x: frames of a shard, inside of `over_frames`; elsewhere a whole clip.
    first: may be negative.
    count: number of frames.
    segment: shards that may exchange frames, as those of the clip may; None
      is all of them.
  """
  local = x.shape[1]
  parts = []
  for hop in range(first // local, (first + count - 1) // local + 1):
    start = max(first - hop * local, 0)
    stop = min(first + count - hop * local, local)
    parts.append(from_shard(x[:, start:stop], hop, segment=segment))
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def from_shard(
  x: Clip, hop: int, *, segment: int | None = None, cyclic: bool = False
) -> Clip:
  """Returns what the shard `hop` further on in the clip has as x.

  Args:
    x: of the same shape on all shards.
    hop: may be negative.
    segment: see `frames_from`.
    cyclic: whether the clip's end is followed by its beginning; else zeros are
      outside.
  """
  shards = axis_size()
  hop = hop % shards if cyclic else hop
  if hop == 0:
    return x
  size = segment or shards
  pairs = [
    ((here + hop) % shards, here)
    for here in range(shards)
    if cyclic or 0 <= here % size + hop < size
  ]
  return swap_shards(x, pairs) if pairs else jnp.zeros_like(x)


def swap_shards(x: Clip, pairs: list[tuple[int, int]]) -> Clip:
  """Returns the x of another shard; zeros where none is named.

  Args:
    x: of the same shape on all shards, inside of `over_frames`.
    pairs: source and destination, by number of the shard.
  """
  return lax.ppermute(x, AXIS, pairs)


def outside(
  x: Clip, offset: int, *, segment: int | None = None
) -> Bool[Array, "1 t *ones"]:
  """Says of each frame of a shard whether `offset` further on the clip ends.

  Args:
    x: frames of a shard, inside of `over_frames`; elsewhere a whole clip.
    offset: in frames; may be negative.
    segment: see `frames_from`.

  Returns:
    Booleans `(1, t, 1, ...)` with as many axes as x.
  """
  size = segment or axis_size()
  local = x.shape[1]
  shard = lax.axis_index(AXIS) % size if size > 1 else 0
  place = shard * local + jnp.arange(local) + offset
  ends = (place < 0) | (place >= size * local)
  return ends.reshape(1, local, *[1] * (x.ndim - 2))


def axis_size() -> int:
  """Returns over how many shards `over_frames` runs; 1 outside of it."""
  return _axis_size(AxisType.Manual)


def is_split() -> bool:
  """Says whether the mesh in force splits frames, `over_frames` or not."""
  return max(map(_axis_size, (AxisType.Auto, AxisType.Manual))) > 1


def split_frames(x: Clip) -> Clip:
  """Returns x with its frames split over the devices, if they divide."""
  return _constrained(x, AXIS)


def gather_frames(x: Clip) -> Clip:
  """Returns x with all of its frames on every device."""
  return _constrained(x, None)


def _constrained(x: jax.Array, frames: str | None) -> jax.Array:
  if frame_shards(x.shape[1]) == 1:
    return x
  spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
  spec[1] = frames
  return lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _axis_size(kind: AxisType) -> int:
  """Devices along the axis, if it is of that kind in the mesh in force."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  return mesh.shape[AXIS] if kinds.get(AXIS) == kind else 1
