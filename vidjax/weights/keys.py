"""Ordered key tables: official state dicts to vidjax parameters and back.

A table is a list of rules. It is strict both ways: every source key is used or
named as ignored with its reason, every parameter is filled, and one error
lists everything that does not fit.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import EinopsError, rearrange
from flax import traverse_util
from jaxtyping import Float

from vidjax.nn.functional import Tree

Array = Float[np.ndarray, "..."]


class WeightsError(ValueError):
  """Weights that do not fit the model; the message lists every key."""


@dataclasses.dataclass(frozen=True)
class Transform:
  """A change of layout and its inverse."""

  name: str
  forward: Callable[[Array], Array]
  inverse: Callable[[Array], Array]


def squeeze(*axes: int) -> Transform:
  """Drops axes of length one."""
  return Transform(
    f"squeeze{axes}",
    lambda x: np.squeeze(x, axes),
    lambda x: np.expand_dims(x, axes),
  )


def _to_conv(x: Array) -> Array:
  side = round((x.shape[0] / 3) ** 0.5)
  return rearrange(x, "(p q i) o -> o i p q", p=side, q=side)


SAME = Transform("same", lambda x: x, lambda x: x)
# PyTorch stores linear weights as (out, in).
LINEAR = Transform("transpose", np.transpose, np.transpose)
# A convolution whose stride is its kernel, as a matrix over flat patches.
PATCHES = Transform(
  "patches", lambda x: rearrange(x, "o i p q -> (p q i) o"), _to_conv
)


def tubes(side: int) -> Transform:
  """The same of patches of several frames, with `side` rows and columns."""
  return Transform(
    f"tubes({side})",
    lambda x: rearrange(x, "o i s p q -> (s p q i) o"),
    lambda x: rearrange(x, "(s p q i) o -> o i s p q", p=side, q=side, i=3),
  )


@dataclasses.dataclass(frozen=True)
class Rule:
  """Source key pattern, target path and layout change.

  `{}` in both stands for the same number, in order.
  """

  source: str
  target: str
  transform: Transform = SAME

  def match(self, key: str) -> str | None:
    """Returns the target path of a source key, or None."""
    pattern = re.escape(self.source).replace(r"\{\}", r"(\d+)")
    found = re.fullmatch(pattern, key)
    return self.target.format(*found.groups()) if found else None

  def reverse(self, path: str) -> str | None:
    """Returns the source key of a target path, or None."""
    return Rule(self.target, self.source).match(path)


def linear_rules(source: str, target: str) -> list[Rule]:
  """Weight and bias of a linear layer."""
  return [
    Rule(f"{source}.weight", f"{target}/kernel", LINEAR),
    Rule(f"{source}.bias", f"{target}/bias"),
  ]


def norm_rules(source: str, target: str) -> list[Rule]:
  """Weight and bias of a layer norm."""
  return [
    Rule(f"{source}.weight", f"{target}/scale"),
    Rule(f"{source}.bias", f"{target}/bias"),
  ]


def batch_norm_rules(source: str, target: str) -> list[Rule]:
  """Weight, bias and running statistics of a batch norm."""
  return [
    *norm_rules(source, target),
    Rule(f"{source}.running_mean", f"{target}/mean"),
    Rule(f"{source}.running_var", f"{target}/var"),
  ]


def block_rules(source: str, target: str) -> list[Rule]:
  """A transformer block by timm's names, which most code uses."""
  return [
    *norm_rules(f"{source}.norm1", f"{target}/norm1"),
    *linear_rules(f"{source}.attn.qkv", f"{target}/attention/qkv"),
    *linear_rules(f"{source}.attn.proj", f"{target}/attention/proj"),
    *norm_rules(f"{source}.norm2", f"{target}/norm2"),
    *linear_rules(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
    *linear_rules(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
  ]


@dataclasses.dataclass(frozen=True)
class Ignored:
  """Source keys that vidjax does not need, and why."""

  pattern: str
  reason: str


@dataclasses.dataclass(frozen=True)
class KeyTable:
  """All rules of one family of state dicts."""

  rules: Sequence[Rule]
  ignored: Sequence[Ignored] = ()

  def target(self, key: str) -> tuple[str, Transform] | None:
    """Returns path and transform of a source key; None if it is ignored.

    Raises:
      KeyError: if no rule knows the key.
    """
    for rule in self.rules:
      path = rule.match(key)
      if path is not None:
        return path, rule.transform
    if any(re.fullmatch(i.pattern, key) for i in self.ignored):
      return None
    raise KeyError(key)

  def load(
    self, source: Mapping[str, Any], template: Mapping[str, Any]
  ) -> dict[str, Any]:
    """Fills a parameter tree of the template's shapes from a state dict.

    Args:
      source: official keys to arrays, PyTorch layout.
      template: nested parameters; only shapes and dtypes are read.

    Raises:
      WeightsError: listing every unknown, missing and mis-shaped key.
    """
    wanted: dict[str, Any] = traverse_util.flatten_dict(dict(template), sep="/")
    filled: dict[str, Any] = {}
    faults, faulty = [], set()
    for key, value in source.items():
      try:
        found = self.target(key)
      except KeyError:
        faults.append(f"unknown key {key} {np.shape(value)}")
        continue
      if found is None:
        continue
      path, transform = found
      if path not in wanted:
        faults.append(f"{key} belongs to {path}, which this model lacks")
        continue
      shape, dtype = wanted[path].shape, wanted[path].dtype
      try:
        array = transform.forward(np.asarray(value))
        fits = array.shape == shape
      except (ValueError, EinopsError):  # another number of axes
        array, fits = np.asarray(value), False
      if not fits:
        faulty.add(path)
        faults.append(
          f"{key} {np.shape(value)} gives {path} {array.shape}, but the model "
          f"has {shape}"
        )
        continue
      filled[path] = jnp.asarray(array, dtype)
    faults += [
      f"nothing fills {path} {leaf.shape}"
      for path, leaf in wanted.items()
      if path not in filled and path not in faulty
    ]
    if faults:
      raise WeightsError(
        "the weights do not fit this model; check its name and options:\n  "
        + "\n  ".join(faults)
      )
    return traverse_util.unflatten_dict(filled, sep="/")

  def export(self, params: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the tree's arrays under their official keys and layouts.

    Raises:
      WeightsError: if a parameter has no official name.
    """
    result = {}
    for path, value in traverse_util.flatten_dict(
      dict(params), sep="/"
    ).items():
      for rule in self.rules:
        key = rule.reverse(path)
        if key is not None:
          result[key] = rule.transform.inverse(np.asarray(value))
          break
      else:
        raise WeightsError(f"the parameter {path} has no official key")
    return result


def load(
  table: KeyTable, source: Mapping[str, Any], params: Tree, stats: Tree
) -> tuple[Tree, Tree]:
  """Fills parameters and running statistics from a state dict.

  Args:
    table: of the weights' family.
    source: official keys to arrays, PyTorch layout.
    params: only shapes and dtypes are read, as of the next.
    stats: running statistics.

  Raises:
    WeightsError: listing every unknown, missing and mis-shaped key.
  """
  flat = [traverse_util.flatten_dict(tree, sep="/") for tree in (params, stats)]
  template = traverse_util.unflatten_dict(flat[0] | flat[1], sep="/")
  filled = traverse_util.flatten_dict(table.load(source, template), sep="/")
  new_params, new_stats = (
    traverse_util.unflatten_dict({path: filled[path] for path in tree}, sep="/")
    for tree in flat
  )
  return new_params, new_stats
