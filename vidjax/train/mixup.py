"""Mixup on the device (Zhang et al. 2018), in groups of neighbouring clips."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float, Int, Key, UInt32


def mixup(
  key: Key[jax.Array, ""] | UInt32[jax.Array, "2"],
  inputs: Any,
  labels: Int[jax.Array, " b"],
  *,
  alpha: float | int,
  group: int,
  prepare: Callable[[Any], Float[jax.Array, "b t h w c"]] = lambda x: x,
) -> tuple[
  Float[jax.Array, "b t h w c"],
  tuple[Int[jax.Array, " b"], Int[jax.Array, " b"], Float[jax.Array, " b"]],
]:
  """Mixes each clip with another one of its group.

  The b clips are cut into groups of neighbours. A group draws one weight
  lam ~ Beta(alpha, alpha) and one permutation p of its clips, and clip i
  becomes `lam * clip[i] + (1 - lam) * clip[p[i]]`. A group that lies on one
  device is mixed there, without communication; of others the inputs travel,
  which are a quarter of float clips if they are bytes.

  Args:
    key: of this batch.
    inputs: what clips are made of, a tree of arrays `(b ...)`.
    labels: classes of the clips.
    alpha: of the Beta distribution, positive.
    group: clips that share lam; divides b.
    prepare: from inputs to clips, of any float dtype, which is kept.

  Returns:
    The mixed clips and the targets `(ya, yb, lam)`: `labels`, the labels of
    the other clips, and the float32 weight of the first, all (b).

  Raises:
    ValueError: if alpha is not positive or the group does not divide b.
  """
  clips = len(labels)
  check_mixup(alpha, group, clips)
  lam_key, order_key = jax.random.split(key)
  lam = jax.random.beta(lam_key, alpha, alpha, (clips // group, 1))
  # The order of random numbers is a random permutation.
  order = jax.random.uniform(order_key, (clips // group, group)).argsort(axis=1)

  def grouped(x: jax.Array) -> jax.Array:
    return rearrange(x, "(n g) ... -> n g ...", g=group)

  def flat(x: jax.Array) -> jax.Array:
    return rearrange(x, "n g ... -> (n g) ...")

  def others(x: jax.Array) -> jax.Array:
    return flat(jax.vmap(lambda rows, p: rows[p])(grouped(x), order))

  lam = flat(jnp.broadcast_to(lam, order.shape))
  share = lam[:, None, None, None, None]
  video, other = prepare(inputs), prepare(jax.tree.map(others, inputs))
  mixed = share * video + (1 - share) * other
  return mixed.astype(video.dtype), (labels, others(labels), lam)


def check_mixup(alpha: float | int, group: int, clips: int) -> None:
  """Checks that clips can be mixed in groups.

  Raises:
    ValueError: if alpha is not positive or the group does not divide the
      number of clips.
  """
  if alpha <= 0:
    raise ValueError(f"train.mixup_alpha is {alpha}; use a positive number")
  if group < 1 or clips % group:
    raise ValueError(
      f"train.mixup_group={group} does not divide the {clips} clips of a "
      f"(micro-)batch; use a divisor of {clips}"
    )
