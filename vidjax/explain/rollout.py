"""Attention rollout: what the tokens of the clip give to the result.

Abnar & Zuidema 2020, section 3: with A the attention of a layer, averaged over
its heads, 0.5 A + 0.5 I stands for the layer and its skip path, and the product
of all layers for the way from the input. It is followed backwards from the
result, a vector times one layer after the other, so that no matrix of all pairs
of tokens of the clip is made.

A is the way that values take: each is the sum, by the attention's weights, of
the values that the plug brought there, taken back to its place as the plug does
it. So mixed values, patches from other frames, pairs of frames and shifted
channels count at the frames and positions that they are from; windows are cut
and joined; what a layer takes from outside of the clip is lost. Merged tokens
share alike. Norms, MLPs and projections are left out, as in the paper.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vidjax.explain.intermediates import LOGITS, Video, intermediates
from vidjax.explain.layers import (
  Layer,
  Layout,
  Query,
  Weights,
  attention_layers,
  layout_of,
  uniform,
)
from vidjax.explain.space_time import SpaceTime, asked
from vidjax.models.backbone import Backbone
from vidjax.models.vit import ViT
from vidjax.nn.interframe import InterFrame

Shares = Float[Array, "t n"]


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What each token of the first attention layer gives.

  Attributes:
    shares: at the first layer.
    logits: of the model (b k).
    layers: names of those that were followed, from the first.
  """

  shares: SpaceTime
  logits: Float[np.ndarray, "b k"]
  layers: list[str]


def rollout(
  model: Backbone,
  video: Video,
  *,
  layer: Layer | None = None,
  query: Query | None = None,
) -> Rollout:
  """Returns where the result comes from, or a token behind a layer.

  Args:
    model: a transformer.
    video: one normalised clip (1 t h w 3).
    layer: behind which the token is; None is the whole model.
    query: the token; None is one in the middle of the clip. Of no use without
      a layer.

  Raises:
    ValueError: if the model has no attention, or part of it has no shares; if
      there is no such token.
  """
  layers = attention_layers(model)
  if layer is not None:
    names = [one.name for one in layers]
    layers = layers[: names.index(layer.name) + 1]
  _check(layers)
  names = [f"{one.name}.weights" for one in layers]
  grids = [f"{one.block_name}.grid" for one in layers]
  found = intermediates(model, video, [*names, *grids, LOGITS])
  layouts = [
    layout_of(one, found[grid]) for one, grid in zip(layers, grids, strict=True)
  ]
  shares = (
    _read_out(model, layers[-1], layouts[-1])
    if layer is None
    else _one_token(layer, layouts[-1], query)
  )
  followed = list(zip(layers, layouts, names, strict=True))
  for i, (one, layout, name) in reversed(list(enumerate(followed))):
    shares = before(one, layout, found[name], shares)
    if i:
      previous, behind, _ = followed[i - 1]
      shares = _enter(model, one, previous, behind, layout, shares)
  return Rollout(
    _in_space(layouts[0], np.asarray(shares)),
    np.asarray(found[LOGITS]),
    [one.name for one in layers],
  )


def before(
  layer: Layer, layout: Layout, weights: Weights, shares: Shares
) -> Shares:
  """Returns the shares of the tokens that enter a layer.

  Args:
    layer: with its skip path.
    layout: of its tokens.
    weights: its attention.
    shares: of the tokens that leave it.
  """

  def follow(x: jax.Array, weights: jax.Array) -> jax.Array:
    grid = layout.grid
    if not layer.moves_stream:
      return (x + layer.update(x, layout, weights)) / 2
    random = {"train": False, "rngs": None}
    x = layer.temporal.before(x, grid, **random)
    x = (x + layer.update(x, layout, weights)) / 2
    return layer.temporal.after(x, grid, **random)

  @jax.jit
  def sources(weights: jax.Array, shares: jax.Array) -> jax.Array:
    ones = uniform(layer, layout)
    _, transpose = jax.vjp(lambda x: follow(x, weights), ones)
    (found,) = transpose(ones * shares[:, :, None] / layer.channels)
    return found[0].sum(axis=-1)

  return sources(weights, shares)


def _read_out(model: Backbone, last: Layer, layout: Layout) -> Shares:
  """What the result reads: class tokens, the head's, or all tokens."""
  empty = jnp.zeros((layout.frames, layout.tokens))
  if last.over_frames:
    return empty.at[0, 0].set(1)
  if isinstance(model, ViT):
    return empty.at[:, 0].set(1 / layout.frames)
  return empty + 1 / empty.size


def _one_token(layer: Layer, layout: Layout, query: Query | None) -> Shares:
  query = layer.default_query(layout) if query is None else query
  empty = jnp.zeros((layout.frames, layout.tokens))
  return empty.at[asked(layer, layout, query)].set(1)


def _enter(
  model: Backbone,
  layer: Layer,
  previous: Layer,
  behind: Layout,
  layout: Layout,
  shares: Shares,
) -> Float[Array, "t2 n2"]:
  """Shares of the tokens that the layer before left."""
  if layer.over_frames and not previous.over_frames:
    frames = shares[0, layout.grid.class_tokens :]
    empty = jnp.zeros((behind.frames, behind.tokens))
    if isinstance(model, ViT):
      return empty.at[:, 0].set(frames)
    return empty + frames[:, None] / behind.tokens
  if behind.grid == layout.grid:
    return shares
  # Merged tokens: two rows and columns became one; a last odd one of them was
  # joined with nothing, or left out.
  fine, coarse = behind.grid, layout.grid
  maps = shares.reshape(-1, coarse.height, coarse.width) / 4
  maps = maps.repeat(2, axis=1).repeat(2, axis=2)
  maps = maps[:, : fine.height, : fine.width]
  missing = [(0, fine.height - maps.shape[1]), (0, fine.width - maps.shape[2])]
  return jnp.pad(maps, [(0, 0), *missing]).reshape(behind.frames, -1)


def _in_space(layout: Layout, shares: np.ndarray) -> SpaceTime:
  classes, height, width = layout.grid
  patches = shares[:, classes:].reshape(-1, height, width)
  return SpaceTime(
    patches,
    shares[:, :classes],
    max(0.0, 1.0 - float(shares.sum())),
    patches > 0,
  )


def _check(layers: list[Layer]) -> None:
  for layer in layers:
    if isinstance(layer.temporal, InterFrame):
      raise ValueError(
        f"rollout follows shares that sum to one, and {layer.block_name} adds "
        "inter-frame attention, which has none; use the method attention, "
        "offsets or saliency"
      )
