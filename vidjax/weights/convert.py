"""Weights of other code to a vidjax model, and back."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from vidjax.checks import one_of
from vidjax.models.backbone import Backbone
from vidjax.nn.functional import split
from vidjax.weights.entries import State, entries
from vidjax.weights.families import FAMILIES, check_backbone, recognise
from vidjax.weights.keys import (
  Ignored,
  Placed,
  WeightsError,
  flat,
  like,
  misfit,
  reason_of,
)
from vidjax.weights.layouts import layout_of
from vidjax.weights.report import Converted, Report
from vidjax.weights.resize import resizer

# What wrappers of a whole model (DistributedDataParallel, compile) prepend.
_WRAPPERS = ("module.", "_orig_mod.")
_COUNTER = "n_averaged"
_HEAD = re.compile(r"(dual_)?head/.*")
# Where official code keeps its classifiers.
_HEAD_KEY = re.compile(
  r"(consensus|new_fc|(base_model\.|model\.)?head|cls_head|fc(_dual)?)\..*"
)


def convert(
  source: Mapping[str, Any],
  model: Backbone,
  *,
  family: str | None = None,
  new_head: bool = False,
) -> Converted:
  """Brings a state dict to a model, strictly both ways.

  Every source key is used or named as ignored, and every array of the model
  is filled or named as fresh. Positions of another size are resized as the
  family's own code does.

  Args:
    source: keys to arrays, of a family of `vidjax.weights.families.FAMILIES`;
      floats of other precision are cast to float32.
    model: to be filled; it is not changed. An abstract one (`nnx.eval_shape`)
      serves, too, if nothing stays fresh.
    family: of the source; None recognises it by its keys.
    new_head: whether the model keeps its own classifier where the source's
      does not fit, as with another number of classes.

  Returns:
    The model's trees with the source's values, and a report.

  Raises:
    WeightsError: if source and model do not fit; the message lists all that
      does not.
    ValueError: if the family is unknown.
  """
  layout = layout_of(model)
  state, notes = _clean(source)
  shapes = {key: entry.value.shape for key, entry in state.items()}
  _, *trees = split(model)
  wanted = flat(trees[0]) | flat(trees[1])
  if not shapes.keys().isdisjoint(path for path in wanted if "/" in path):
    raise WeightsError(
      "these are weights as vidjax itself saves them, which need no "
      "conversion; load them with vidjax.load_pretrained"
    )
  name = recognise(shapes, layout) if family is None else family
  one_of("family", name, tuple(FAMILIES))
  check_backbone(name, model)
  chosen = FAMILIES[name]
  placed = layout.table.place(
    chosen.adapt(state, model, layout),
    wanted,
    resizer(model, chosen.grid, chosen.rows),
  )
  fresh = _fresh(placed, wanted, chosen.fresh, new_head)
  _forget(placed, fresh, new_head)
  faults = [_advised(fault.message, fault.path) for fault in placed.faults]
  faults += [
    f"{path} keeps the model's initial value, which an abstract model has "
    "not; build it with its weights (vidjax.create_model)"
    for path in fresh
    if isinstance(wanted[path], jax.ShapeDtypeStruct)
  ]
  if faults:
    raise misfit(faults, f"the weights of {chosen.title} (family {name!r})")
  params, stats = like(
    placed.filled | {path: wanted[path] for path in fresh}, *trees
  )
  report = Report(
    name,
    chosen.title,
    type(model).__name__,
    tuple(notes),
    tuple(placed.rows),
    tuple(placed.ignored),
    tuple(fresh.items()),
  )
  return Converted(params, stats, report)


def official_state(
  model: Backbone, family: str | None = None, *, frames: int | None = None
) -> dict[str, Shaped[np.ndarray, "..."]]:
  """Returns a model's weights as its official code stores them.

  With the constants that the code stores beside them, so that it loads the
  result strictly.

  Args:
    model: with its weights.
    family: the family to write; None is that of the model's own code, and no
      other has such a model.
    frames: of a clip. SIFA's code stores constants for each of them; without
      the number they are left out.

  Raises:
    WeightsError: if no official code has such a model.
  """
  layout = layout_of(model)
  if family not in (None, layout.system):
    raise WeightsError(
      f"family is {family!r}, but the official state dict of this "
      f"{type(model).__name__} is of {layout.system!r}; use that"
    )
  _, params, stats = jax.device_get(split(model))
  state = layout.table.export(params) | layout.table.export(stats)
  counters = {
    key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
    for key in state
    if key.endswith(".running_mean")
  }
  state = state | counters | layout.constants(model, frames)
  # Writers of safetensors store the memory of a view as if it were in order.
  return {key: np.asarray(value, order="C") for key, value in state.items()}


def _clean(source: Mapping[str, Any]) -> tuple[State, list[str]]:
  """Undoes what has nothing to do with the family; says what it was."""
  nested = [key for key, value in source.items() if isinstance(value, Mapping)]
  if nested:
    raise WeightsError(
      f"the source holds dictionaries ({', '.join(map(repr, nested))}) and not "
      f"arrays; give one of them, as source[{nested[0]!r}]"
    )
  notes = []
  for prefix in _WRAPPERS:
    wrapped = [key for key in source if key != _COUNTER]
    if wrapped and all(key.startswith(prefix) for key in wrapped):
      source = {key.removeprefix(prefix): x for key, x in source.items()}
      notes.append(f"{prefix!r} cut from all keys")
  state = entries(source)
  if _COUNTER in state:
    state[_COUNTER] = state[_COUNTER].dropped("a counter of averaged steps")
  casts = Counter()
  for key, entry in state.items():
    dtype = entry.value.dtype
    if jnp.issubdtype(dtype, jnp.floating) and dtype != np.float32:
      value = entry.value.astype(np.float32)
      state[key] = entry.changed(value, f"{dtype} to float32")
      casts[str(dtype)] += 1
  notes += [f"{n} arrays cast from {d} to float32" for d, n in casts.items()]
  return state, notes


def _fresh(
  placed: Placed,
  wanted: Mapping[str, Any],
  expected: Sequence[Ignored],
  new_head: bool,
) -> dict[str, str]:
  """Paths that keep the model's initial values, and why."""
  unfit = {fault.path for fault in placed.faults if fault.source}
  missing = [path for path in wanted if path not in placed.filled]
  fresh = {
    path: reason
    for path in missing
    if path not in unfit and (reason := reason_of(path, expected)) is not None
  }
  if new_head:  # whole layers: a classifier's bias goes with its kernel
    layers = {p.rpartition("/")[0] for p in missing if _HEAD.fullmatch(p)}
    fresh |= {
      path: "a new head" for path in wanted if path.rpartition("/")[0] in layers
    }
  return fresh


def _forget(placed: Placed, fresh: Mapping[str, str], new_head: bool) -> None:
  """Takes what stays fresh out of what is filled and of what is faulty."""
  for row in [row for row in placed.rows if row.path in fresh]:
    del placed.filled[row.path]
    placed.rows.remove(row)
    placed.ignored.append((row.source, f"{row.path} is new"))
  for fault in list(placed.faults):
    of_head = not fault.path and new_head and _HEAD_KEY.fullmatch(fault.source)
    if fault.path in fresh or of_head:
      placed.faults.remove(fault)
      if fault.source:
        placed.ignored.append((fault.source, fault.message))


def _advised(message: str, path: str) -> str:
  """Adds what may be done about a classifier that does not fit."""
  if not _HEAD.fullmatch(path):
    return message
  return f"{message} (new_head=True keeps the model's own classifier)"
