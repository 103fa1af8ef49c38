"""Named models: the published ones, baselines of their size, tiny ones."""

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike

from vidjax.models.vit import ViT

B16: dict[str, Any] = {"patch_size": 16, "dim": 768, "depth": 12, "heads": 12}
B32: dict[str, Any] = B16 | {"patch_size": 32}
L16: dict[str, Any] = {"patch_size": 16, "dim": 1024, "depth": 24, "heads": 16}
L32: dict[str, Any] = L16 | {"patch_size": 32}
# For the built-in motion clips, 64 x 64 pixels.
TINY: dict[str, Any] = {
  "image_size": 64,
  "patch_size": 16,
  "dim": 96,
  "depth": 4,
  "heads": 4,
  "dropout_rate": 0.0,
  "init_std": 0.1,
}
MIXING: dict[str, Any] = {
  "op": "mixing",
  "mix": "kv",
  "shift_div": 8,
  "window": 1,
  "boundary_only": False,
  "segment": None,
  "split": "channels",
  "summary_tokens": False,
  "blocks": None,
}
ATTENTION: dict[str, Any] = {
  "kind": "temporal_attention",
  "layers": 1,
  "mlp_dim": None,
}
AVERAGE: dict[str, Any] = {"kind": "average"}


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """A registered model.

  Attributes:
    system: the published system, or what it is a baseline of.
    frames: frames of a clip that its figures are given for.
    options: every argument of the class but dtype, remat and rngs.
  """

  system: str
  frames: int
  options: Mapping[str, Any]

  @property
  def image_size(self) -> int:
    """Side of the square frames in pixels."""
    return self.options["image_size"]


def _vit(
  system: str,
  size: Mapping[str, Any],
  num_classes: int,
  frames: int,
  temporal: Mapping[str, Any],
  head: Mapping[str, Any] = AVERAGE,
  **options: Any,
) -> ModelSpec:
  parameters = inspect.signature(ViT.__init__).parameters
  defaults = {
    name: p.default
    for name, p in parameters.items()
    if p.default is not p.empty and name not in ("dtype", "remat")
  }
  merged = defaults | dict(size) | options
  merged |= {"num_classes": num_classes, "temporal": dict(temporal)}
  merged["head"] = dict(head)
  if head is ATTENTION:
    merged["head"]["heads"] = merged["heads"]
  return ModelSpec(system, frames, merged)


def _xvit(
  size: Mapping[str, Any], num_classes: int, frames: int, **mixing: Any
) -> ModelSpec:
  return _vit("X-ViT", size, num_classes, frames, MIXING | mixing, ATTENTION)


def _baselines(
  suffix: str, size: Mapping[str, Any], num_classes: int, frames: int
) -> dict[str, ModelSpec]:
  """The same ViT with the other plugs and an averaging head."""
  system = "ViT baseline"
  plain = (size, num_classes, frames)
  divided = {"op": "divided", "blocks": None}
  return {
    # Without temporal positions, so that it cannot know the frames' order.
    f"vit_{suffix}": _vit(system, *plain, {"op": "none"}, temporal_positions=0),
    f"vit_joint_{suffix}": _vit(system, *plain, {"op": "joint"}),
    f"timesformer_{suffix}": _vit(
      system, *plain, divided, class_positions=False
    ),
    f"tsm_vit_{suffix}": _vit(
      system, *plain, {"op": "channel_shift", "fold_div": 8, "blocks": None}
    ),
    f"tokshift_vit_{suffix}": _vit(
      system, *plain, {"op": "token_shift", "fold_div": 4, "blocks": None}
    ),
  }


MODELS: dict[str, ModelSpec] = {
  # The released Kinetics models mix within two segments of 8 frames.
  "xvit_b16_k400": _xvit(B16, 400, 16, segment=8),
  "xvit_b16_k600": _xvit(B16, 600, 16, segment=8),
  "xvit_b16_ssv2": _xvit(B16, 174, 16, shift_div=4),
  "xvit_b16_8f_ssv2": _xvit(B16, 174, 8, shift_div=4),
  "xvit_b32_8f_ssv2": _xvit(B32, 174, 8, shift_div=4),
  "xvit_l16_8f_ssv2": _xvit(L16, 174, 8, shift_div=4, blocks=tuple(range(15))),
  "xvit_l32_8f_ssv2": _xvit(L32, 174, 8, shift_div=4, blocks=tuple(range(15))),
  **_baselines("b16_8f_k400", B16, 400, 8),
  "xvit_motion": _xvit(TINY, 12, 8, shift_div=4),
  **_baselines("motion", TINY, 12, 8),
}


def list_models(contains: str = "") -> list[str]:
  """Returns the registered names that contain a string, sorted."""
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


def create_model(
  name: str,
  *,
  rngs: nnx.Rngs | None = None,
  dtype: DTypeLike = jnp.float32,
  remat: str = "none",
  **overrides: Any,
) -> ViT:
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
  options = copy.deepcopy(dict(model_spec(name).options))
  unknown = sorted(set(overrides) - set(options))
  if unknown:
    raise ValueError(
      f"model {name!r} has no option {', '.join(map(repr, unknown))}; its "
      f"options are {', '.join(sorted(options))}"
    )
  for key, value in overrides.items():
    options[key] = _override(key, options[key], value)
  return ViT(**options, dtype=dtype, remat=remat, rngs=rngs or nnx.Rngs(0))


def _override(name: str, old: Any, new: Any) -> Any:
  if not isinstance(old, Mapping):
    return new
  if not isinstance(new, Mapping):
    raise ValueError(f"{name} is {new!r}; give a dictionary such as {old}")
  for which in ("op", "kind"):
    if which in new and new[which] != old.get(which):
      return dict(new)
  return dict(old) | dict(new)
