"""From frame features to logits: averaging, or attention over the frames."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.checks import known_arguments, one_of
from vidjax.nn.attention import Block
from vidjax.nn.init import torch_init, vit_init
from vidjax.nn.layers import LayerNorm, dropout, gelu, linear
from vidjax.nn.temporal import BlockShape, Grid, Temporal
from vidjax.ops.halo import gather_frames

Frames = Float[jax.Array, "b t c"]
Logits = Float[jax.Array, "b k"]


class AverageHead(nnx.Module):
  """A linear classifier for each frame; the logits are averaged.

  Args:
    dim: channels of the frame features.
    num_classes: logits.
    dropout_rate: ahead of the classifier.
    drop_mean: whether dropout acts on the mean of the frames (TPS and Video
      Swin) and not on each of them (X-ViT).
    init_std: deviation of the initial weights.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    num_classes: int,
    *,
    dropout_rate: float,
    drop_mean: bool = False,
    init_std: float = 0.001,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.dropout_rate = dropout_rate
    self.drop_mean = drop_mean
    self.fc = linear(
      dim, num_classes, init=vit_init(init_std), dtype=dtype, rngs=rngs
    )

  def __call__(
    self, features: Frames, *, train: bool, rngs: nnx.Rngs | None
  ) -> Logits:
    """Averages before the linear layer, which gives the same logits."""
    if self.drop_mean:
      features = features.mean(axis=1, keepdims=True)
    features = dropout(features, self.dropout_rate, train=train, rngs=rngs)
    return self.fc(features.mean(axis=1))


class TemporalAttentionHead(nnx.Module):
  """X-ViT's temporal attention (Bulat et al. 2021, section 3, "TA").

  A class token and the frame features pass through transformer blocks and a
  two-layer classifier reads the class token. There are no temporal positions
  here: order comes from the backbone. As in the official code, its blocks have
  no q, k, v bias and the norms an epsilon of 1e-5.

  Args:
    dim: channels of the frame features.
    num_classes: logits.
    heads: attention heads.
    layers: transformer blocks.
    mlp_dim: hidden width of the classifier; None is `dim`.
    dropout_rate: ahead of the blocks and inside the classifier.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    num_classes: int,
    *,
    heads: int,
    layers: int = 1,
    mlp_dim: int | None = None,
    dropout_rate: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    hidden = dim if mlp_dim is None else mlp_dim
    random = {"dtype": dtype, "rngs": rngs}
    shape = BlockShape(dim, heads, norm_eps=1e-5, init=torch_init)
    self.dropout_rate = dropout_rate
    self.class_token = nnx.Param(jnp.zeros((dim,)))
    self.blocks = nnx.List(
      Block(shape, Temporal(), qkv_bias=False, **random) for _ in range(layers)
    )
    self.norm = LayerNorm(dim, eps=shape.norm_eps, **random)
    self.fc1 = linear(dim, hidden, init=torch_init, **random)
    self.fc2 = linear(hidden, num_classes, init=torch_init, **random)

  def __call__(
    self, features: Frames, *, train: bool, rngs: nnx.Rngs | None
  ) -> Logits:
    """Attends over the frames and classifies the class token."""
    random = {"train": train, "rngs": rngs}
    features = gather_frames(features)  # attention over all of them
    features = dropout(features, self.dropout_rate, **random)
    b, t, c = features.shape
    token = self.class_token[...].astype(features.dtype)
    x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, c)), features], axis=1)[
      :, None
    ]  # the frames are the tokens of a single "frame"
    for block in self.blocks:
      x = block(x, Grid(1, t, 1), **random)
    hidden = gelu(self.fc1(self.norm(x[:, 0, 0])))
    return self.fc2(dropout(hidden, self.dropout_rate, **random))


HEADS = {
  "average": AverageHead,
  "temporal_attention": TemporalAttentionHead,
}


def make_head(
  options: Mapping[str, Any], dim: int, num_classes: int, **keywords: Any
) -> AverageHead | TemporalAttentionHead:
  """Builds a head: "kind" names it, the rest are its arguments.

  Raises:
    ValueError: if the kind or an argument is unknown.
  """
  arguments = dict(options)
  kind = one_of("head.kind", arguments.pop("kind", None), tuple(HEADS))
  context = {"dim": dim, "num_classes": num_classes, **keywords}
  return HEADS[kind](
    **known_arguments(f"head {kind!r}", HEADS[kind], arguments, context)
  )
