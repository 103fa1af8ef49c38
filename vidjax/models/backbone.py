"""What all backbones share: features, head, logits; blocks run in turn."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from vidjax.nn.attention import Block
from vidjax.nn.rngs import counted_rngs
from vidjax.nn.temporal import Grid, Tokens
from vidjax.ops.halo import split_frames

REMAT = ("none", "block")


class Backbone(nnx.Module):
  """A video model: `features` of each frame, and a `head` over them.

  Attributes:
    head: from frame features to logits (`vidjax.models.heads`).
    remat: "none", or "block" to recompute the blocks' activations in the
      backward pass instead of keeping them.
    frozen: regular expressions of the paths of parameters that do not train.
  """

  head: nnx.Module
  remat: str
  frozen: tuple[str, ...] = ()

  def __call__(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b k"]:
    """Returns float32 logits of normalised clips.

    Those of a model with several heads are the logarithm of the mean of their
    probabilities, so that their softmax is the prediction.

    Args:
      video: RGB frames, normalised as the model's recipe does.
      train: whether dropouts and the batch's own statistics are active.
      rngs: source of "dropout" keys; needed if any dropout is active.
    """
    return mean_prediction(self.head_logits(video, train=train, rngs=rngs))

  def head_logits(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> tuple[Float[jax.Array, "b k"], ...]:
    """Returns the float32 logits of each head; the loss is the sum of theirs.

    All but SIFA-Net have one.
    """
    video = split_frames(video)
    features = self.features(video, train=train, rngs=rngs)
    logits = self.head(features, train=train, rngs=rngs)
    return (logits.astype(jnp.float32),)

  def features(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b s c"]:
    """Returns the features of every frame, or of every tubelet of frames."""
    raise NotImplementedError

  def run(
    self,
    block: Block,
    x: Tokens,
    grid: Grid,
    *,
    train: bool,
    rngs: nnx.Rngs | None,
  ) -> Tokens:
    """Applies a block, recomputing it in the backward pass if so chosen."""

    def apply(x, key):
      inner = None if key is None else counted_rngs(dropout=key)
      return block(x, grid, train=train, rngs=inner)

    # A key for each block: the same draws with and without recomputation.
    key = rngs.dropout() if train and rngs is not None else None
    if self.remat == "block":
      apply = jax.checkpoint(apply)
    return apply(x, key)


def mean_prediction(
  logits: Sequence[Float[jax.Array, "b k"]],
) -> Float[jax.Array, "b k"]:
  """Returns the logarithm of the heads' mean probabilities.

  A single head's logits are returned as they are.
  """
  if len(logits) == 1:
    return logits[0]
  log_p = jax.nn.log_softmax(jnp.stack(logits), axis=-1)
  return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(logits))
