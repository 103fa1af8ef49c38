"""Learning rate, optimisers, gradient accumulation and moving averages.

The optimisers follow PyTorch's rules, by which the published models were
trained. Each is a named chain of parts, so that its state, and with it a
checkpoint, does not depend on the position of a part.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidjax.checks import Config, one_of
from vidjax.nn.functional import Tree

Part = tuple[str, optax.GradientTransformation]


def learning_rate(
  config: Config, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
  """Returns the learning rate by step: linear warm-up, then a cosine.

  At the (fractional) epoch e of E the cosine is
  `final + (base - final) * (1 + cos(pi e / E)) / 2`. During the first W epochs
  the rate goes in a straight line from `warmup_lr` to the cosine's own value
  at W, which is below `base_lr`.

  Args:
    config: base_lr, warmup_lr, warmup_epochs (W), final_lr.
    total_steps: of the training.
    steps_per_epoch: optimiser steps of one epoch.

  Raises:
    ValueError: if the warm-up is longer than the training.
  """
  base, start, final = config.base_lr, config.warmup_lr, config.final_lr
  warmup, epochs = config.warmup_epochs, total_steps / steps_per_epoch
  if not 0 <= warmup <= epochs:
    raise ValueError(
      f"schedule.warmup_epochs is {warmup}, but the training has {epochs:.4g} "
      "epochs; use a value between 0 and that"
    )

  def cosine(epoch):
    return final + (base - final) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2

  def schedule(step):
    epoch = jnp.asarray(step, jnp.float32) / steps_per_epoch
    if not warmup:
      return cosine(epoch)
    ramp = start + (cosine(warmup) - start) * epoch / warmup
    return jnp.where(epoch < warmup, ramp, cosine(epoch))

  return schedule


def _sgd(config: Config, decay: optax.GradientTransformation) -> list[Part]:
  momentum = optax.trace(config.momentum, nesterov=True)
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
) -> optax.GradientTransformation:
  """Returns the optimiser that a configuration describes.

  "sgd": Nesterov momentum without dampening, weight decay added to the
  gradient before the momentum. "adamw": decoupled weight decay, scaled by the
  learning rate. Clipping comes first, the learning rate last.

  Args:
    config: name, momentum, betas, eps, weight_decay, and no_decay, regular
      expressions over the paths of parameters without weight decay.
    schedule: the learning rate by step.
    params: arrays, or only their shapes.
    clip_norm: largest global norm of the gradient; 0 for no clipping.

  Raises:
    ValueError: if the name is unknown or an expression matches no parameter.
  """
  one_of("optimizer.name", config.name, _OPTIMIZERS)
  decay = optax.add_decayed_weights(
    config.weight_decay, decay_mask(params, config.no_decay)
  )
  parts = _OPTIMIZERS[config.name](config, decay)
  if clip_norm:
    parts.insert(0, ("clip", clip_by_norm(clip_norm)))
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
  leaves, structure = jax.tree_util.tree_flatten_with_path(params)
  paths = [
    jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
  ]
  exempt: set[str] = set()
  for pattern in no_decay:
    try:
      found = {path for path in paths if re.search(pattern, path)}
    except re.error as error:
      raise ValueError(
        f"optimizer.no_decay: {pattern!r} is not a regular expression: {error}"
      ) from error
    if not found:
      raise ValueError(
        f"optimizer.no_decay: {pattern!r} matches none of the {len(paths)} "
        f"parameters ({paths[0]!r}, ..., {paths[-1]!r}); correct or remove it"
      )
    exempt |= found
  return structure.unflatten([path not in exempt for path in paths])


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


def accumulate_gradients(
  loss_and_grad: Callable[..., Any],
  params: Tree,
  stats: Tree,
  batch: dict[str, jax.Array],
  key: jax.Array,
  *,
  micro_batches: int,
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

  Returns:
    What the function returns for the whole batch.

  Raises:
    ValueError: if m does not divide b.
  """
  if micro_batches == 1:
    return loss_and_grad(params, stats, batch, key)
  size = len(batch["weight"])
  if micro_batches < 1 or size % micro_batches:
    raise ValueError(
      f"train.accumulate={micro_batches} does not divide the batch of {size} "
      "examples; use a divisor"
    )

  def strided(x: jax.Array) -> jax.Array:
    parts = (size // micro_batches, micro_batches)
    return jnp.moveaxis(x.reshape(*parts, *x.shape[1:]), 1, 0)

  micro = jax.tree.map(strided, batch)
  weight = micro["weight"].astype(jnp.float32).sum(axis=1)
  shares = weight / jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
  keys = jax.random.split(key, micro_batches)

  def body(carry, part):
    stats, sums = carry
    examples, key, share = part
    (loss, (stats, aux)), gradients = loss_and_grad(
      params, stats, examples, key
    )
    sums = jax.tree.map(
      lambda s, x: s + share * x, sums, (loss, aux, gradients)
    )
    return (stats, sums), None

  (loss, (_, aux)), gradients = jax.eval_shape(
    loss_and_grad, params, stats, jax.tree.map(lambda x: x[0], micro), keys[0]
  )
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
    (loss, aux, gradients),
  )
  (stats, (loss, aux, gradients)), _ = jax.lax.scan(
    body, (stats, zeros), (micro, keys, shares)
  )
  return (loss, (stats, aux)), gradients
