"""Named models: the published ones, baselines of their size, tiny ones."""

import copy
import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from vidjax.models.backbone import Backbone
from vidjax.models.sifa_models import SIFA_MODELS
from vidjax.models.spec import ModelSpec
from vidjax.models.swin_models import SWIN_MODELS
from vidjax.models.visformer_models import VISFORMER_MODELS
from vidjax.models.vit_models import VIT_MODELS
from vidjax.nn.rngs import counted_rngs

MODELS: dict[str, ModelSpec] = {
  **VIT_MODELS,
  **SWIN_MODELS,
  **VISFORMER_MODELS,
  **SIFA_MODELS,
}
_RECORD = "registered"  # the attribute of a created model


def list_models(contains: str = "") -> list[str]:
  """Returns the registered names that contain a string, sorted.

  docs/models.md in the repository says what each of them is.
  """
  return sorted(name for name in MODELS if contains in name)


def model_spec(name: str) -> ModelSpec:
  """Returns a registered model's specification.

  Raises:
    ValueError: if the name is not registered; the message names the nearest.
  """
  if name in MODELS:
    return MODELS[name]
  near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
  hint = f" did you mean {' or '.join(near)}?" if near else ""
  raise ValueError(
    f"there is no model {name!r};{hint} vidjax.list_models() lists all"
  )


def model_options(name: str) -> dict[str, Any]:
  """Returns a copy of every option of a registered model, with its name.

  It is what a configuration page starts from:
  `config.model = model_options("xvit_b16_k400")`.

  Raises:
    ValueError: if the name is not registered.
  """
  return {"name": name} | copy.deepcopy(dict(model_spec(name).options))


@dataclasses.dataclass(frozen=True)
class Registered:
  """What a model was created from.

  Attributes:
    name: the registered name.
    changes: JSON of the options that differ from the registered ones; text,
      because a module's constants must be hashable.
  """

  name: str
  changes: str

  @property
  def overrides(self) -> dict[str, Any]:
    """The overrides of `create_model` that make the same model again."""
    return from_json(json.loads(self.changes))


def registered(model: Backbone) -> Registered:
  """Returns what `create_model` made a model from.

  Raises:
    ValueError: if its class was called directly.
  """
  record = getattr(model, _RECORD, None)
  if record is None:
    raise ValueError(
      f"this {type(model).__name__} has no registered name; build it with "
      "vidjax.create_model"
    )
  return record


def from_json(value: Any) -> Any:
  """Returns options as `create_model` takes them: with tuples for lists."""
  if isinstance(value, dict):
    return {key: from_json(item) for key, item in value.items()}
  return tuple(map(from_json, value)) if isinstance(value, list) else value


def create_model(
  name: str,
  *,
  rngs: nnx.Rngs | None = None,
  dtype: DTypeLike = jnp.float32,
  remat: str = "none",
  **overrides: Any,
) -> Backbone:
  """Builds a registered model with random weights.

  Args:
    name: a name of `list_models()`.
    rngs: keys of the initial values; None is `nnx.Rngs(0)`.
    dtype: compute dtype; parameters are float32.
    remat: "none", or "block" to recompute activations in the backward pass.
    **overrides: options of the model to change. A dictionary (`temporal`,
      `head`) that keeps the registered operation needs only the changed keys;
      one that names another replaces it.

  Raises:
    ValueError: if the name or an option is unknown.
  """
  spec = model_spec(name)
  options = copy.deepcopy(dict(spec.options))
  unknown = sorted(set(overrides) - set(options))
  if unknown:
    raise ValueError(
      f"model {name!r} has no option {', '.join(map(repr, unknown))}; its "
      f"options are {', '.join(sorted(options))}"
    )
  options = with_overrides(options, overrides)
  record = Registered(name, _changes(name, spec.options, options))
  model = spec.backbone(
    **options, dtype=dtype, remat=remat, rngs=rngs or counted_rngs(default=0)
  )
  setattr(model, _RECORD, record)
  return model


def with_overrides(
  options: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a model's options with some changed, as `create_model` does.

  Raises:
    ValueError: if an option that is a dictionary is given something else.
  """
  changed = {
    key: _override(key, options.get(key), value)
    for key, value in overrides.items()
  }
  return dict(options) | changed


def _changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  changes = {key: value for key, value in new.items() if value != old[key]}
  try:
    return json.dumps(changes, sort_keys=True, default=np.generic.item)
  except TypeError as error:
    raise ValueError(
      f"the options {changes} of model {name!r} cannot be stored ({error}); "
      "use plain numbers, strings, tuples and dictionaries"
    ) from error


def _override(name: str, old: Any, new: Any) -> Any:
  if not isinstance(old, Mapping):
    return new
  if not isinstance(new, Mapping):
    raise ValueError(f"{name} is {new!r}; give a dictionary such as {old}")
  for which in ("op", "kind"):
    if which in new and new[which] != old.get(which):
      return dict(new)
  return dict(old) | dict(new)
