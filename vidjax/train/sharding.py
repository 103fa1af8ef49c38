"""Where every array lives: path -> logical axes -> mesh axes, in one file.

Rules speak of logical axes ("embed", "wide"), so a new parallelism is a new
line in `MESH_AXES` and not a change of the models. Optimiser moments and
moving averages end in the path of their parameter and follow its rule.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
BATCH = PartitionSpec(AXES)  # clips are split over both

# Logical axes of a parameter, by the end of its path; the first match counts.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"(qkv|fc1)/kernel$", ("embed", "wide")),
  (r"(proj|fc2|fc)/kernel$", ("wide", "embed")),
  (r"position$", (None, "embed")),
  (r"bias/table$", (None, None, None, "heads")),
  (r"stages/\d+/merge/reduction/kernel$", ("wide", "embed")),
  (r"stages/\d+/merge/norm/(scale|bias)$", ("wide",)),
)
MESH_AXES: dict[str | None, str | None] = {
  "embed": "fsdp",
  "wide": None,
  "heads": None,
}


def make_mesh(
  data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
  """Returns the device mesh with axes `data` and `fsdp`.

  Args:
    data: devices that hold different clips and the same parameters; -1 takes
      all that `fsdp` leaves.
    fsdp: devices that also split the parameters and the optimiser's state.
    devices: None takes all there are.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  if data == -1 and fsdp > 0:
    data = len(devices) // fsdp
  if data < 1 or fsdp < 1 or data * fsdp != len(devices):
    raise ValueError(
      f"a mesh of data={data} x fsdp={fsdp} does not fit {len(devices)} "
      "devices; set mesh.data=-1 and mesh.fsdp to a divisor of their number"
    )
  return jax.make_mesh(
    (data, fsdp),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
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


def check_batch(name: str, size: int, mesh: Mesh) -> None:
  """Checks that a batch divides over the mesh.

  Raises:
    ValueError: if it does not.
  """
  if size % mesh.size:
    raise ValueError(
      f"{name}={size} does not divide over {mesh.size} devices; use a multiple"
    )
