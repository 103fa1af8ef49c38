"""Batch norm with PyTorch's statistics, and precise statistics.

Running statistics are no parameters: `vidjax.nn.functional.split` returns them
as `stats`, and a forward pass in training changes them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least
from vidjax.nn.functional import Tree, merge, split


class BatchNorm(nnx.Module):
  """Batch norm over all axes but the last, which holds the channels.

  Statistics are float32 and two-pass. In training `x` is normed with its own
  biased variance; the running variance keeps the unbiased one, as PyTorch
  does (Flax keeps the biased one).

  Under jit the statistics are those of the global batch. The official models
  were trained with those of each device: `groups` devices, each with an equal
  share of the clips that follow one another. The running statistics take the
  mean of the groups'.

  Args:
    dim: channels c.
    eps: added to the variance.
    momentum: share of the new statistics in the running ones (PyTorch's
      convention, Flax's is one minus it).
    groups: parts of the batch with statistics of their own.
    unbiased: whether the running variance is unbiased.
    dtype: of the result; statistics and parameters are float32.

  Attributes:
    exact: True makes a forward pass in training store the mean and the biased
      variance of the whole batch in place of running ones
      (`batch_statistics`).
  """

  def __init__(
    self,
    dim: int,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    groups: int = 1,
    unbiased: bool = True,
    dtype: DTypeLike,
  ):
    at_least(1, groups=groups)
    self.eps = eps
    self.momentum = momentum
    self.groups = groups
    self.unbiased = unbiased
    self.dtype = dtype
    self.exact = False
    self.scale = nnx.Param(jnp.ones((dim,)))
    self.bias = nnx.Param(jnp.zeros((dim,)))
    self.mean = nnx.BatchStat(jnp.zeros((dim,)))
    self.var = nnx.BatchStat(jnp.ones((dim,)))

  def __call__(
    self, x: Float[jax.Array, "b *rest c"], *, train: bool
  ) -> Float[jax.Array, "b *rest c"]:
    """Norms with the statistics of x in training, else with running ones.

    Raises:
      ValueError: in training, if the clips do not divide into the groups or
        if a group has a single value for each channel.
    """
    if not train:
      return self._norm(x, self.mean[...], self.var[...])
    if len(x) % self.groups:
      raise ValueError(
        f"batch norm in {self.groups} groups cannot divide {len(x)} clips; "
        "use a batch that is a multiple of the groups"
      )
    parts = x.reshape(self.groups, -1, *x.shape[1:])
    count = math.prod(parts.shape[1:-1])
    if count < 2:
      raise ValueError(
        f"batch norm in training got {count} value for each channel; give it "
        "more clips, or fewer groups"
      )
    values = parts.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(1, parts.ndim - 1))
    mean = values.mean(axis=axes, keepdims=True)
    var = jnp.square(values - mean).mean(axis=axes, keepdims=True)
    self._remember(mean, var, count)
    return self._norm(values, mean, var).reshape(x.shape)

  def _norm(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    factor = self.scale[...] * lax.rsqrt(var + self.eps)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = (x - mean) * factor + self.bias[...]
    return y.astype(self.dtype)

  def _remember(self, mean: jax.Array, var: jax.Array, count: int):
    shape = (self.groups, -1)
    mean = lax.stop_gradient(mean).reshape(shape)
    var = lax.stop_gradient(var).reshape(shape)
    overall = mean.mean(axis=0)
    if self.exact:
      self.mean.set_value(overall)
      self.var.set_value((var + jnp.square(mean - overall)).mean(axis=0))
      return
    correction = count / (count - 1) if self.unbiased else 1
    self._approach(self.mean, overall)
    self._approach(self.var, correction * var.mean(axis=0))

  def _approach(self, running: nnx.BatchStat, value: jax.Array):
    # Not running[...] +=, which is slow to trace, as in vidjax.nn.rngs.
    old = running.get_value()
    running.set_value(old + self.momentum * (value - old))


class Pooled(NamedTuple):
  """Statistics of every batch norm of a model over a number of clips."""

  clips: Float[jax.Array, ""]
  stats: Tree


def batch_statistics(
  definition: Any,
  params: Tree,
  stats: Tree,
  video: Float[jax.Array, "b t h w 3"],
  *,
  rngs: nnx.Rngs | None = None,
) -> Pooled:
  """Returns the statistics of one batch: its means and biased variances.

  Pooled over many batches (`pool`) they are the "precise" statistics that
  evaluate better than running ones. The official LAPS recipe takes those of 200
  batches after every epoch.

  Args:
    definition: the model, as `vidjax.nn.functional.split` gives it.
    params: parameters.
    stats: running statistics; only their structure counts.
    video: normalised clips as in training.
    rngs: source of "dropout" keys; needed if any dropout is active.
  """
  model = merge(definition, params, stats)
  for _, module in nnx.iter_modules(model):
    if isinstance(module, BatchNorm):
      module.exact = True
  model(video, train=True, rngs=rngs)
  return Pooled(jnp.float32(len(video)), split(model)[2])


def pool(first: Pooled, second: Pooled) -> Pooled:
  """Returns the statistics of the values of both (Chan et al. 1979).

  The clips of both must be of one size: they count as equal.
  """
  clips = first.clips + second.clips
  share = second.clips / clips

  def combine(a: Tree, b: Tree) -> Tree:
    if a.keys() != {"mean", "var"}:
      return {name: combine(a[name], b[name]) for name in a}
    apart = b["mean"] - a["mean"]
    var = a["var"] + share * (b["var"] - a["var"])
    return {
      "mean": a["mean"] + share * apart,
      "var": var + share * (1 - share) * jnp.square(apart),
    }

  return Pooled(clips, combine(first.stats, second.stats))
