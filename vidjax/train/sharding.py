"""Where every array lives: path -> logical axes -> mesh axes, in one file.

Rules speak of logical axes ("embed", "wide"), so a new parallelism is a new
line in `MESH_AXES` and not a change of the models. Optimiser moments and
moving averages end in the path of their parameter and follow its rule.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Of the mesh: clips are split over the first two, parameters over "fsdp" too,
# frames of a clip over the third, channels of wide layers over the last.
AXES = ("data", "fsdp", "frames", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

# Logical axes of a parameter, by the end of its path; the first match counts.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  # heads of all models
  (r"head/(fc|fc2)/kernel$", ("embed", None)),
  # what cuts patches (ViT, Swin, Visformer)
  (r"embed/proj/kernel$", (None, "embed")),
  # blocks of ViT, Swin and Visformer
  (r"(qkv|fc1|mlp/conv1)/kernel$", ("embed", "wide")),
  (r"(qkv|fc1)/bias$", ("wide",)),
  (r"(proj|fc2|mlp/conv3)/kernel$", ("wide", "embed")),
  # ViT
  (r"position$", (None, "embed")),
  # Swin
  (r"bias/table$", (None, None, None, "heads")),
  (r"stages/\d+/merge/reduction/kernel$", (None, "embed")),
  (r"temporal/conv/kernel$", (None, "embed")),
  # convolutions of Visformer and ResNet
  (r"conv\d?/kernel$", (None, "embed")),
  (r"conv\d?/kernel$", (None, None, None, "embed")),
)
MESH_AXES: dict[str | None, str | None] = {
  "embed": "fsdp",
  "wide": "tensor",
  "heads": "tensor",
}


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  frames: int = 1,
  tensor: int = 1,
  *,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Returns the device mesh, with the axes `AXES`.

  Args:
    data: devices that hold different clips and the same parameters; -1 takes
      all that the others leave.
    fsdp: devices that also split the parameters and the optimiser's state.
    frames: devices that split the frames of a clip (`vidjax.ops.halo`).
    tensor: devices that split the channels of wide layers and the heads.
    devices: None takes all there are.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  others = fsdp * frames * tensor
  if data == -1 and min(fsdp, frames, tensor) > 0:
    data = len(devices) // others
  sizes = (data, fsdp, frames, tensor)
  if min(sizes) < 1 or data * others != len(devices):
    wanted = " x ".join(
      f"{axis}={n}" for axis, n in zip(AXES, sizes, strict=True)
    )
    raise ValueError(
      f"a mesh of {wanted} does not fit {len(devices)} devices; set "
      "mesh.data=-1 and the others to numbers whose product divides theirs"
    )
  return jax.make_mesh(
    sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )


def parameter_spec(
  path: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
  """Returns the partition of one array by its path and shape.

  An axis that the mesh axis does not divide is kept whole, and said in the
  log; arrays without a rule are replicated.
  """
  for pattern, logical in LOGICAL_AXES:
    if re.search(pattern, path) and len(logical) == len(shape):
      break
  else:
    return PartitionSpec()
  axes = []
  for name, size in zip(logical, shape, strict=True):
    axis = MESH_AXES.get(name)
    if axis is not None and mesh.shape[axis] == 1:
      axis = None
    if axis is not None and size % mesh.shape[axis]:
      logging.info(
        "%s: axis of %d is not divisible by %s=%d and is kept whole",
        path,
        size,
        axis,
        mesh.shape[axis],
      )
      axis = None
    axes.append(axis)
  return PartitionSpec(*axes)


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
  """Returns the sharding of every leaf of a train state, in its tree."""

  def sharding(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, parameter_spec(name, leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, BATCH)


def input_sharding(
  name: str, shape: tuple[int, ...], mesh: Mesh
) -> NamedSharding:
  """Returns the sharding of one array of a batch.

  Clips are split along their frames too, if these divide.

  Args:
    name: "video" for clips `(b ... t h w c)`; others have the batch first.
    shape: of the array.
    mesh: the devices.
  """
  if name != "video" or shape[-4] % mesh.shape["frames"]:
    return batch_sharding(mesh)
  between = (None,) * (len(shape) - 5)
  return NamedSharding(mesh, PartitionSpec(*BATCH, *between, "frames"))


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a jitted function that runs with the mesh in force.

  Operations between frames look there for the devices that hold the others
  (`vidjax.ops.halo`).
  """

  @functools.wraps(function)
  def run(*arguments: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return run


def check_batch(name: str, size: int, mesh: Mesh) -> None:
  """Checks that a batch divides over the mesh.

  Raises:
    ValueError: if it does not.
  """
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if size % parts:
    raise ValueError(
      f"{name}={size} does not divide over {parts} devices (mesh.data x "
      "mesh.fsdp); use a multiple"
    )
