"""Attention put back at the frames and positions that it looks at.

A weight belongs to a key, and a key may come from elsewhere: from another frame
(patch shift), from the other frame of a pair (leap attention), or part by part
from several frames (space-time mixing, whose heads thus look at different
times). Here the weight of a key goes to the tokens that the key's channels are
from, in proportion; a query's weights over all frames and positions then sum to
one, less what falls outside: frames beyond the clip's ends, and padding.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vidjax.explain.intermediates import LOGITS, Video, intermediates
from vidjax.explain.layers import (
  KEY,
  QUERY,
  Layer,
  Layout,
  Query,
  Weights,
  layout_of,
  uniform,
)
from vidjax.models.backbone import Backbone

# A masked logit is 100 lower than others, its weight about 1e-44.
_NOTHING = 1e-30


@dataclasses.dataclass(frozen=True)
class SpaceTime:
  """Shares over the tokens of a clip.

  Attributes:
    patches: of each frame, row and column.
    classes: of the class tokens of each frame.
    outside: of what is no token of the clip: zeros beyond its ends, padding,
      a class token of the head.
    reach: where there may be a share at all, whatever the weights.
  """

  patches: Float[np.ndarray, "t h w"]
  classes: Float[np.ndarray, "t k"]
  outside: float
  reach: Bool[np.ndarray, "t h w"]

  @property
  def frames(self) -> Float[np.ndarray, " t"]:
    """Share of each frame, with its class tokens."""
    return self.patches.sum(axis=(1, 2)) + self.classes.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Look:
  """Where one query of a layer looks.

  Attributes:
    query: the token that asks.
    heads: shares by number of the head; `None` is the mean of all heads.
    logits: of the model (b k).
    name: of the layer.
  """

  query: Query
  heads: dict[int | None, SpaceTime]
  logits: Float[np.ndarray, "b k"]
  name: str


def attention_of(
  model: Backbone,
  video: Video,
  layer: Layer,
  *,
  query: Query | None = None,
  heads: Sequence[int | None] = (None,),
) -> Look:
  """Returns where a query looks, by head.

  Args:
    model: to look into.
    video: one normalised clip (1 t h w 3).
    layer: of `vidjax.explain.layers.attention_layers`.
    query: the token that asks; None is one in the middle of the clip.
    heads: numbers of heads, from 0; None is the mean of all.

  Raises:
    ValueError: if there is no such head or query.
  """
  names = [f"{layer.name}.weights", f"{layer.block_name}.grid", LOGITS]
  weights, grid, logits = intermediates(model, video, names).values()
  layout = layout_of(layer, grid)
  if query is None:
    query = layer.default_query(layout)
  found = space_time(layer, layout, weights, query, heads)
  return Look(query, found, np.asarray(logits), layer.name)


def space_time(
  layer: Layer,
  layout: Layout,
  weights: Weights,
  query: Query,
  heads: Sequence[int | None] = (None,),
) -> dict[int | None, SpaceTime]:
  """Puts the weights of a query at the tokens that its keys come from.

  Args:
    layer: whose weights they are.
    layout: of the layer's tokens.
    weights: of one clip.
    query: the token that asks.
    heads: numbers of heads; None is the mean of all.

  Returns:
    The shares by head.

  Raises:
    ValueError: if there is no such head or query.
  """
  ones = uniform(layer, layout)
  slot = _slot(layer, layout, ones, query)

  @jax.jit
  def sources(weights: jax.Array, channels: jax.Array) -> jax.Array:
    def arriving(x: jax.Array) -> jax.Array:
      return layer.attended(x, layout, weights, KEY)[slot] @ channels

    return jax.grad(arriving)(ones)[0].sum(axis=-1)

  def of_head(head: int | None) -> SpaceTime:
    channels = _channels(layer, head)
    shares = np.asarray(sources(weights, channels))
    possible = (weights > _NOTHING).astype(weights.dtype)
    reach = np.asarray(sources(possible, channels)) > 0
    patches, classes = in_space(layer, layout, shares)
    inside = float(patches.sum() + classes.sum())
    return SpaceTime(
      patches,
      classes,
      max(0.0, 1.0 - inside),
      in_space(layer, layout, reach)[0],
    )

  return {head: of_head(head) for head in heads}


def _channels(layer: Layer, head: int | None) -> Float[np.ndarray, " c"]:
  """Equal parts of one for the channels of a head, or for all of them."""
  if head is None:
    return np.full(layer.channels, 1 / layer.channels, np.float32)
  if not 0 <= head < layer.heads:
    raise ValueError(
      f"{layer.name} has no head {head}; it has {layer.heads}, counted from 0, "
      "and 'mean' is that of all"
    )
  each = layer.channels // layer.heads
  result = np.zeros((layer.heads, each), np.float32)
  result[head] = 1 / each
  return result.reshape(-1)


def in_space(
  layer: Layer, layout: Layout, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what belongs to patches (t h w) and to class tokens (t k)."""
  classes, height, width = layout.grid
  patches = shares[:, classes:].reshape(-1, height, width)
  if layer.over_frames:
    # The tokens of the only "frame" are the frames of the clip; its class
    # token is none of theirs.
    return patches.reshape(height, 1, 1), np.zeros((height, 0), shares.dtype)
  return patches, shares[:, :classes]


def _slot(
  layer: Layer, layout: Layout, ones: Array, query: Query
) -> tuple[int, int, int]:
  """Where a token is when it asks: where most of it has come to."""
  frame, token = asked(layer, layout, query)
  mark = jnp.zeros_like(ones).at[:, frame, token].set(1)
  arrived = layer.slots(mark, layout, QUERY).mean(axis=-1)
  b, t, n = np.unravel_index(int(arrived.argmax()), arrived.shape)
  return int(b), int(t), int(n)


def asked(layer: Layer, layout: Layout, query: Query) -> tuple[int, int]:
  """Returns frame and token of a query, as the layer's block orders them.

  Raises:
    ValueError: if there is no such token, or the layer leaves it out.
  """
  classes, height, _ = layout.grid
  if layer.tracks and query.place is None:
    raise ValueError(
      f"{layer.name} attends along time at each position, without the class "
      "token; ask at a row and a column"
    )
  if layer.over_frames and query.place is not None:
    frames = Layout(height, layout.grid._replace(class_tokens=0, height=1))
    frames.locate(query)
    return 0, classes + query.frame
  return layout.locate(query)
