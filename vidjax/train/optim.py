"""Optimisers, gradient accumulation and moving averages.

The optimisers follow PyTorch's rules, by which the published models were
trained. Each is a named chain of parts, so that its state, and with it a
checkpoint, does not depend on the position of a part.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidjax.checks import Config, one_of
from vidjax.nn.functional import Tree

Part = tuple[str, optax.GradientTransformation]


def _sgd(config: Config, decay: optax.GradientTransformation) -> list[Part]:
  momentum = optax.trace(config.momentum, nesterov=config.nesterov)
  return [("decay", decay), ("momentum", momentum)]


def _adamw(config: Config, decay: optax.GradientTransformation) -> list[Part]:
  b1, b2 = config.betas
  return [
    ("adam", optax.scale_by_adam(b1, b2, eps=config.eps)),
    ("decay", decay),
  ]


_OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}


def make_optimizer(
  config: Config,
  schedule: optax.Schedule,
  params: Tree,
  *,
  clip_norm: float | int = 0.0,
  frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
  """Returns the optimiser that a configuration describes.

  "sgd": momentum without dampening, weight decay added to the gradient before
  the momentum. "adamw": decoupled weight decay, scaled by the learning rate.
  Clipping comes first, the learning rate last.

  Args:
    config: name, momentum, nesterov, betas, eps, weight_decay; no_decay,
      regular expressions over the paths of parameters without weight decay;
      lr_multipliers (`lr_factors`).
    schedule: the learning rate by step.
    params: arrays, or only their shapes.
    clip_norm: largest global norm of the gradient; 0 for no clipping.
    frozen: regular expressions over the paths of parameters that stay as they
      are. Their gradients have to be zero already, or the norm counts them.

  Raises:
    ValueError: if the name is unknown or an expression matches no parameter.
  """
  one_of("optimizer.name", config.name, _OPTIMIZERS)
  factors = lr_factors(params, config.lr_multipliers, frozen)
  decays = jax.tree.map(
    lambda decays, factor: decays and factor > 0,
    decay_mask(params, config.no_decay),
    factors,
  )
  decay = optax.add_decayed_weights(config.weight_decay, decays)
  parts = _OPTIMIZERS[config.name](config, decay)
  if clip_norm:
    parts.insert(0, ("clip", clip_by_norm(clip_norm)))
  if any(factor != 1 for factor in jax.tree.leaves(factors)):
    parts.append(("factors", _scale_by(factors)))
  parts.append(("rate", optax.scale_by_learning_rate(schedule)))
  return optax.named_chain(*parts)


def decay_mask(params: Tree, no_decay: tuple[str, ...] | list[str]) -> Tree:
  """Returns, for each parameter, whether weight decay applies to it.

  Args:
    params: arrays, or only their shapes.
    no_decay: regular expressions; a path ("head/mlp/fc1/bias") in which one
      is found is exempt.

  Raises:
    ValueError: if an expression is not valid or is found in no path.
  """
  paths, structure = _paths(params)
  exempt: set[str] = set()
  for pattern in no_decay:
    exempt |= _find("optimizer.no_decay", pattern, paths)
  return structure.unflatten([path not in exempt for path in paths])


def lr_factors(
  params: Tree,
  lr_multipliers: Sequence[Any],
  frozen: Sequence[str] = (),
) -> Tree:
  """Returns, for each parameter, the factor of its learning rate.

  The factor applies to the whole update, weight decay included, as the
  learning rate of a parameter group in PyTorch does; 0 freezes.

  Args:
    params: arrays, or only their shapes.
    lr_multipliers: pairs (regular expression, factor). The first expression
      that is found in a path ("head/fc/kernel") counts; without one the factor
      is 1.
    frozen: regular expressions of parameters whose factor is 0 whatever the
      pairs say.

  Raises:
    ValueError: if an expression is not valid, is found in no path or only in
      those of earlier pairs, or if a factor is not a number of 0 or more.
  """
  paths, structure = _paths(params)
  factors: dict[str, float] = {}
  for pair in lr_multipliers:
    pattern, factor = _checked_pair(pair)
    found = _find("optimizer.lr_multipliers", pattern, paths) - factors.keys()
    if not found:
      raise ValueError(
        f"optimizer.lr_multipliers: {pattern!r} matches only parameters that "
        "an earlier expression takes; move it forward or remove it"
      )
    factors |= dict.fromkeys(found, factor)
  for pattern in frozen:
    factors |= dict.fromkeys(_find("model.frozen", pattern, paths), 0.0)
  return structure.unflatten([factors.get(path, 1.0) for path in paths])


def _paths(params: Tree) -> tuple[list[str], Any]:
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  paths = [
    jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
  ]
  return paths, structure


def _find(name: str, pattern: str, paths: list[str]) -> set[str]:
  """Returns the paths in which an expression is found, at least one."""
  try:
    found = {path for path in paths if re.search(pattern, path)}
  except re.error as error:
    raise ValueError(
      f"{name}: {pattern!r} is not a regular expression: {error}"
    ) from error
  if not found:
    raise ValueError(
      f"{name}: {pattern!r} matches none of the {len(paths)} parameters "
      f"({paths[0]!r}, ..., {paths[-1]!r}); correct or remove it"
    )
  return found


def _checked_pair(pair: Any) -> tuple[str, float]:
  match pair:
    case [str(pattern), int() | float() as factor] if 0 <= factor < math.inf:
      return pattern, float(factor)
  raise ValueError(
    f"optimizer.lr_multipliers: {pair!r} is not a pair of a regular expression "
    "and a factor of 0 or more; give a sequence of such pairs"
  )


def _scale_by(factors: Tree) -> optax.GradientTransformation:
  def scale(update: jax.Array, factor: float) -> jax.Array:
    # 0 times a value that is not finite would not freeze.
    return factor * update if factor else jnp.zeros_like(update)

  return optax.stateless(
    lambda updates, params: jax.tree.map(scale, updates, factors)
  )


def clip_by_norm(limit: float | int) -> optax.GradientTransformation:
  """Returns the clipping of the global norm by PyTorch's formula.

  The gradient is scaled by `min(1, limit / (norm + 1e-6))`; unlike in optax a
  gradient just below the limit is scaled too.
  """

  def clip(gradients, params=None):
    del params
    scale = jnp.minimum(1, limit / (optax.tree.norm(gradients) + 1e-6))
    return jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients)

  return optax.stateless(clip)


def update_ema(ema: Tree, params: Tree, decay: float | int) -> Tree:
  """Returns `decay * ema + (1 - decay) * params`, leaf by leaf."""
  return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)


def micro_batch_size(size: int, micro_batches: int) -> int:
  """Returns the examples of each of the micro-batches of a batch.

  Raises:
    ValueError: if the number of micro-batches does not divide the size.
  """
  if micro_batches < 1 or size % micro_batches:
    raise ValueError(
      f"train.accumulate={micro_batches} does not divide the batch of {size} "
      "examples; use a divisor"
    )
  return size // micro_batches


def accumulate_gradients(
  loss_and_grad: Callable[..., Any],
  params: Tree,
  stats: Tree,
  batch: dict[str, jax.Array],
  key: jax.Array,
  *,
  micro_batches: int,
  partial: bool = False,
) -> tuple[Any, Tree]:
  """Calls a loss and gradient function on a batch, one part after the other.

  Micro-batch i holds the examples i, i + m, i + 2m, ... of the b examples, so
  one that is sharded over devices stays so, without communication. Loss,
  gradients and aux are averaged by the weight of the micro-batches, which
  gives the (weighted) mean over the whole batch; the statistics pass through
  the micro-batches in turn.

  Args:
    loss_and_grad: from `(params, stats, batch, key)` to
      `((loss, (stats, aux)), gradients)`, all means by `batch["weight"]`.
    params: parameters.
    stats: running statistics.
    batch: arrays whose first axis is b; "weight" (b) counts the examples.
    key: of this step; each micro-batch has a key of its own.
    micro_batches: m, which divides b.
    partial: whether micro-batches without any weight are missing ones (the last
      step of an epoch in PyTorch's loop): they leave the statistics alone, and
      the gradient is the sum of the means of the others divided by m.

  Returns:
    What the function returns for the whole batch.

  Raises:
    ValueError: if m does not divide b.
  """
  if micro_batches == 1:
    return loss_and_grad(params, stats, batch, key)
  rows = micro_batch_size(len(batch["weight"]), micro_batches)

  def strided(x: jax.Array) -> jax.Array:
    parts = x.reshape(rows, micro_batches, *x.shape[1:])
    return jnp.moveaxis(parts, 1, 0)

  micro = jax.tree.map(strided, batch)
  weight = micro["weight"].astype(jnp.float32).sum(axis=1)
  shares = weight / jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
  portions = jnp.full_like(shares, 1 / micro_batches) if partial else shares
  keys = jax.random.split(key, micro_batches)

  def body(carry, part):
    stats, values, sums = carry
    examples, key, share, portion = part
    (loss, (new_stats, aux)), gradients = loss_and_grad(
      params, stats, examples, key
    )
    values = jax.tree.map(lambda s, x: s + share * x, values, (loss, aux))
    sums = jax.tree.map(lambda s, x: s + portion * x, sums, gradients)
    if partial:
      new_stats = jax.tree.map(
        lambda new, old: jnp.where(share > 0, new, old), new_stats, stats
      )
    return (new_stats, values, sums), None

  (loss, (_, aux)), gradients = jax.eval_shape(
    loss_and_grad, params, stats, jax.tree.map(lambda x: x[0], micro), keys[0]
  )
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
    ((loss, aux), gradients),
  )
  (stats, (loss, aux), gradients), _ = jax.lax.scan(
    body, (stats, *zeros), (micro, keys, shares, portions)
  )
  return (loss, (stats, aux)), gradients
