"""The one place where a module becomes plain dictionaries, and back.

Training, checkpoints and sharding see nested dictionaries with string keys
("blocks" -> "0" -> "attention" ...); the module exists only while a function
is traced.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx

Tree = dict[str, Any]


def _keys(tree: Any, convert) -> Any:
  if not isinstance(tree, Mapping):
    return tree
  return {convert(k): _keys(v, convert) for k, v in tree.items()}


def _list_index(key: str) -> str | int:
  return int(key) if key.isdigit() else key


def split(module: nnx.Module) -> tuple[Any, Tree, Tree]:
  """Takes a module apart: `(definition, params, stats)`.

  `params` holds what the optimiser changes, `stats` what the forward pass
  does (running statistics); both are nested dictionaries of arrays.
  """
  definition, params, stats = nnx.split(module, nnx.Param, ...)
  trees = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
  return definition, *(_keys(tree, str) for tree in trees)


def merge(definition: Any, params: Tree, stats: Tree) -> Any:
  """Rebuilds the module that `split` took apart, around other arrays."""
  return nnx.merge(
    definition, _keys(params, _list_index), _keys(stats, _list_index)
  )
