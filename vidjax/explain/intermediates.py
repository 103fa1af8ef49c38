"""Values inside of a model by name, such as "blocks.3.attention.weights"."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vidjax.models.backbone import Backbone
from vidjax.nn.functional import merge, split
from vidjax.nn.intermediates import Collector, collecting

LOGITS = "logits"

Video = Float[Array, "b t h w 3"]


def intermediates(
  model: Backbone, video: Video, names: Collection[str]
) -> dict[str, Array]:
  """Runs a model and returns values inside of it.

  The model is not changed, and no more is computed than is asked for.

  Args:
    model: in evaluation, without recomputation of its blocks.
    video: normalised clips.
    names: of `intermediate_names`; "logits" is what the model returns.

  Returns:
    The values by name. Attention has `q`, `k` and `v` (b t n c) as the plug
    regroups them, its `weights` (b t g n m) and its `output` (b t n c) ahead of
    the projection; in a backbone with windows those of a frame are folded into
    b. Blocks have their `grid`: frames, class tokens, rows and columns of the
    tokens. Inter-frame attention has the `places` (b s h w n 2) of the
    neighbours, in positions of its map, and their `weights` (b s h w n).

  Raises:
    ValueError: if there is no value of a name; the message lists those there
      are.
  """
  definition, params, stats = split(model)

  @jax.jit
  def run(params: Any, stats: Any, video: jax.Array) -> dict[str, jax.Array]:
    logits, collector = _run(merge(definition, params, stats), video, names)
    missing = sorted(set(names) - {LOGITS, *collector.offered})
    if missing:
      known = ", ".join([LOGITS, *collector.offered])
      raise ValueError(
        f"{type(model).__name__} has no value {missing[0]!r}; it has {known}"
      )
    values = collector.found | {LOGITS: logits}
    return {name: values[name] for name in names}

  found = run(params, stats, jnp.asarray(video))
  return {name: found[name] for name in names}  # jit sorts dictionaries


def intermediate_names(model: Backbone, video: Video) -> list[str]:
  """Returns the names of all values that `intermediates` can return.

  Args:
    model: whose values they are.
    video: normalised clips; only their shape is read.
  """
  definition, params, stats = split(model)
  names = [LOGITS]

  def run(params: Any, stats: Any, video: jax.Array) -> jax.Array:
    logits, collector = _run(merge(definition, params, stats), video, ())
    names.extend(collector.offered)
    return logits

  jax.eval_shape(run, params, stats, video)
  return names


def _run(
  copy: Backbone, video: jax.Array, names: Collection[str]
) -> tuple[jax.Array, Collector]:
  # What recomputed blocks hand out could not leave them.
  copy.remat = "none"
  with collecting(copy, names) as collector:
    logits = copy(video)
  return logits, collector
