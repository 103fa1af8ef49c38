"""Ordered key tables: official state dicts to vidjax parameters and back.

A table is a list of rules. It is strict both ways: every source key is used or
named as ignored with its reason, every parameter is filled, and one error
lists everything that does not fit.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import EinopsError
from flax import traverse_util

from vidjax.nn.functional import Tree
from vidjax.weights.entries import Entry, entries
from vidjax.weights.transforms import LINEAR, SAME, Array, Transform


class WeightsError(ValueError):
  """Weights that do not fit the model; the message lists every key."""


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
  """Keys (of a source) or paths (of a model) that may stay out, and why."""

  pattern: str
  reason: str


def reason_of(name: str, ignored: Sequence[Ignored]) -> str | None:
  """Returns why a name may stay out, or None if it may not."""
  for each in ignored:
    if re.fullmatch(each.pattern, name):
      return each.reason
  return None


@dataclasses.dataclass(frozen=True)
class Row:
  """One filled array: where it is from, where it went, and how."""

  source: str
  shape: tuple[int, ...]
  path: str
  path_shape: tuple[int, ...]
  transform: str
  resized: bool = False


@dataclasses.dataclass(frozen=True)
class Fault:
  """A source key or a path of the model that does not fit, and why."""

  source: str
  path: str
  message: str


@dataclasses.dataclass
class Placed:
  """What became of every key and path.

  Attributes:
    filled: arrays by path.
    rows: one for each of them.
    ignored: source keys and reasons.
    faults: what does not fit.
  """

  filled: dict[str, Any] = dataclasses.field(default_factory=dict)
  rows: list[Row] = dataclasses.field(default_factory=list)
  ignored: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  faults: list[Fault] = dataclasses.field(default_factory=list)


Resize = Callable[[str, Entry, tuple[int, ...]], Entry]


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
    if reason_of(key, self.ignored) is not None:
      return None
    raise KeyError(key)

  def place(
    self,
    source: Mapping[str, Entry],
    wanted: Mapping[str, Any],
    resize: Resize = lambda path, entry, shape: entry,
  ) -> Placed:
    """Brings every entry to its path; nothing is raised.

    Args:
      source: entries by official key.
      wanted: leaves by path; only shapes and dtypes are read.
      resize: given path, entry and wanted shape where the entry has another,
        returns the entry in that shape, or as it is.
    """
    placed, seen = Placed(), set()

    def fault(entry: Entry, path: str, message: str) -> None:
      placed.faults.append(Fault(entry.name, path, message))

    for key, entry in source.items():
      name = f"{entry.name} {entry.shape}"
      try:
        found = None if entry.unused else self.target(key)
      except KeyError:
        fault(entry, "", f"unknown key {name}")
        continue
      if found is None:
        reason = entry.unused or reason_of(key, self.ignored) or ""
        placed.ignored.append((entry.name, reason))
        continue
      path, transform = found
      if path not in wanted:
        fault(entry, "", f"{name} belongs to {path}, which this model lacks")
      elif path in seen:
        fault(entry, "", f"{name} gives {path}, which another key gives")
      else:
        seen.add(path)
        shape = tuple(wanted[path].shape)
        moved, resized = _moved(entry, path, transform, shape, resize)
        got = entry.value.shape if moved is None else moved.value.shape
        if moved is not None and got == shape:
          placed.filled[path] = jnp.asarray(moved.value, wanted[path].dtype)
          steps = ", ".join(moved.changes) or "same"
          row = Row(entry.name, entry.shape, path, shape, steps, resized)
          placed.rows.append(row)
        else:
          has = f"but the model has {shape}"
          fault(entry, path, f"{name} gives {path} {got}, {has}")
    placed.faults += [
      Fault("", path, f"nothing fills {path} {tuple(leaf.shape)}")
      for path, leaf in wanted.items()
      if path not in seen
    ]
    return placed

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
    placed = self.place(entries(source), flat(template))
    if placed.faults:
      raise misfit(fault.message for fault in placed.faults)
    return traverse_util.unflatten_dict(placed.filled, sep="/")

  def export(self, params: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the tree's arrays under their official keys and layouts.

    Raises:
      WeightsError: if a parameter has no official name.
    """
    result = {}
    for path, value in flat(params).items():
      for rule in self.rules:
        key = rule.reverse(path)
        if key is not None:
          result[key] = rule.transform.inverse(np.asarray(value))
          break
      else:
        raise WeightsError(f"the parameter {path} has no official key")
    return result


def _moved(
  entry: Entry,
  path: str,
  transform: Transform,
  shape: tuple[int, ...],
  resize: Resize,
) -> tuple[Entry | None, bool]:
  """The entry as near to the model's shape as it comes; whether resized.

  None if its number of axes is not that of the layout.
  """
  try:
    moved = entry.through(transform)
    if moved.value.shape == shape:
      return moved, False
    return resize(path, moved, shape), True
  except (ValueError, EinopsError):
    return None, False


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a tree's leaves by path, "a/b/c"."""
  return traverse_util.flatten_dict(dict(tree), sep="/")


def misfit(faults: Iterable[str], what: str = "the weights") -> WeightsError:
  """Returns the error that lists faults."""
  return WeightsError(
    f"{what} do not fit this model; check its name and options:\n  "
    + "\n  ".join(faults)
  )


def like(filled: Mapping[str, Any], *trees: Tree) -> tuple[Tree, ...]:
  """Returns trees of given structures with other leaves, by path."""
  return tuple(
    traverse_util.unflatten_dict(
      {path: filled[path] for path in flat(tree)}, sep="/"
    )
    for tree in trees
  )


def load(
  table: KeyTable, source: Mapping[str, Any], params: Tree, stats: Tree
) -> tuple[Tree, Tree]:
  """Fills parameters and running statistics of any module from a state dict.

  Args:
    table: of the module's keys.
    source: official keys to arrays, PyTorch layout.
    params: only shapes and dtypes are read, as of the next.
    stats: running statistics.

  Raises:
    WeightsError: listing every unknown, missing and mis-shaped key.
  """
  template = traverse_util.unflatten_dict(flat(params) | flat(stats), sep="/")
  new_params, new_stats = like(
    flat(table.load(source, template)), params, stats
  )
  return new_params, new_stats
