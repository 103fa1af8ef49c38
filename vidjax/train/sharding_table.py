"""Where every parameter of a configuration lives, as a table to be read."""

import math

import jax
from jax.sharding import Mesh

from vidjax.checks import Config
from vidjax.nn.functional import split
from vidjax.train.run import abstract_model
from vidjax.train.sharding import make_mesh, parameter_spec

_HEADER = ("parameter", "shape", "split over", "bytes a device")


def describe(config: Config, mesh: Mesh | None = None) -> str:
  """Returns the sharding of every parameter, and what a device holds of them.

  The optimiser's moments and the moving average are split in the same way.

  Args:
    config: complete configuration.
    mesh: of the devices; None is the configuration's, of all there are.

  Raises:
    ValueError: if the mesh does not fit the devices.
  """
  mesh = make_mesh(**config.mesh) if mesh is None else mesh
  _, params, _ = split(abstract_model(config))
  rows: list[tuple[str, ...]] = [_HEADER]
  total = 0
  for path, leaf in jax.tree.leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    spec = parameter_spec(name, leaf.shape, mesh)
    axes = [axis for axis in spec if axis is not None]
    devices = math.prod(mesh.shape[axis] for axis in axes)
    size = leaf.size * leaf.dtype.itemsize // devices
    total += size
    named = ["-" if axis is None else str(axis) for axis in spec]
    shape = " x ".join(map(str, leaf.shape))
    rows.append((name, shape, " x ".join(named) or "-", f"{size:,}"))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "  ".join(
      cell.rjust(width) if number == 3 else cell.ljust(width)
      for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
  shape = " x ".join(f"{axis}={n}" for axis, n in mesh.shape.items())
  return "\n".join(
    [
      f"{config.name} on {shape}",
      "",
      *lines,
      "",
      f"parameters on each device: {total:,} bytes; an optimiser's moments are "
      "split as their parameters are",
    ]
  )
