"""The attention layers of a model: what they are called, how their tokens lie.

Each layer has its own way to the tokens that it attends to: a plug moves and
regroups them, windows are cut, divided attention follows positions through
time. `Layer.slots` and `Layer.update` go that way again with any numbers in the
tokens' place and with given attention weights. Both are linear in the tokens,
so their transposes say where what arrives has come from: every plug is its own
description of where it looks.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from vidjax.models.backbone import Backbone
from vidjax.models.heads import TemporalAttentionHead
from vidjax.nn.attention import Attention
from vidjax.nn.interframe import InterFrame, InterFrameAttention
from vidjax.nn.space_time import DividedAttention
from vidjax.nn.temporal import Grid, Temporal
from vidjax.nn.windows import WindowBlock

Weights = Float[Array, "b2 t2 g n2 m"]
# q, k and v, as `Temporal.qkv` orders them.
QUERY, KEY, VALUE = range(3)


class Query(NamedTuple):
  """The token that asks: its frame, row and column; no place: class token."""

  frame: int
  place: tuple[int, int] | None


class Layout(NamedTuple):
  """How many tokens there are in time and space.

  Attributes:
    frames: t, of tokens.
    grid: of the n tokens of a frame.
  """

  frames: int
  grid: Grid

  @property
  def tokens(self) -> int:
    """Number n of the tokens of a frame."""
    return self.grid.class_tokens + self.grid.height * self.grid.width

  def locate(self, query: Query) -> tuple[int, int]:
    """Returns frame and token of a query.

    Raises:
      ValueError: if there is no such token.
    """
    classes, height, width = self.grid
    if not 0 <= query.frame < self.frames:
      raise ValueError(
        f"there is no frame {query.frame}; the layer has {self.frames} frames "
        "of tokens, counted from 0"
      )
    if query.place is None:
      if not classes:
        raise ValueError(
          "the layer has no class token; ask at a row and a column"
        )
      return query.frame, 0
    row, column = query.place
    if not (0 <= row < height and 0 <= column < width):
      raise ValueError(
        f"there is no token in row {row}, column {column}; each frame of the "
        f"layer has {height} x {width} tokens, counted from 0"
      )
    return query.frame, classes + row * width + column


@dataclasses.dataclass(frozen=True)
class Layer:
  """An attention of a model.

  Attributes:
    name: path of the attention, such as "blocks.3.attention".
    block: the module around it, whose path is `block_name`.
    block_name: such as "blocks.3".
    temporal: the plug around this attention.
    heads: g.
    tracks: whether it attends along time at each position (the first half of
      divided attention) and not inside what the plug makes of each frame.
    over_frames: whether it is the head's: its tokens are a class token and the
      frames of the clip.
  """

  name: str
  block: Any
  block_name: str
  temporal: Temporal
  heads: int
  tracks: bool = False
  over_frames: bool = False

  @property
  def channels(self) -> int:
    """Number c of the channels."""
    return self.block.attention.qkv.in_features

  @property
  def moves_stream(self) -> bool:
    """Whether the plug may change the residual stream around this layer."""
    return not isinstance(self.temporal, DividedAttention)

  def default_query(self, layout: Layout) -> Query:
    """Returns a token in the middle of the clip; a class token if it has."""
    if self.over_frames:
      return Query(0, None)
    classes, height, width = layout.grid
    by_place = self.tracks or not classes
    place = (height // 2, width // 2) if by_place else None
    return Query(layout.frames // 2, place)

  def slots(
    self, x: Float[Array, "b t n c"], layout: Layout, which: int
  ) -> Float[Array, "b2 t2 n2 c"]:
    """Returns what lies where the attention takes its q, k or v from.

    Args:
      x: what stands for the tokens.
      layout: of the tokens.
      which: `QUERY`, `KEY` or `VALUE`.
    """
    grid = layout.grid
    if self.tracks:
      return rearrange(x[:, :, grid.class_tokens :], "b t n c -> b n t c")
    if isinstance(self.block, WindowBlock):
      x = self.block.cut(x, grid)
      grid = self.block.window_grid(layout.frames, grid)
    x = self.temporal.tokens(x, grid)
    # The projection mixes the channels: each of its own has a part of all.
    x = jnp.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape)
    return self.temporal.qkv(x, x, x, grid)[which]

  def attended(
    self,
    x: Float[Array, "b t n c"],
    layout: Layout,
    weights: Weights,
    which: int,
  ) -> Float[Array, "b2 t2 n2 c"]:
    """Returns sums of keys or values with given weights, for every query."""
    keys = self.slots(x, layout, which)
    keys = rearrange(keys, "b t m (g d) -> b t g m d", g=self.heads)
    y = jnp.einsum("btgnm,btgmd->btgnd", weights, keys)
    return rearrange(y, "b t g n d -> b t n (g d)")

  def update(
    self, x: Float[Array, "b t n c"], layout: Layout, weights: Weights
  ) -> Float[Array, "b t n c"]:
    """Returns what the tokens receive: sums of values, back at their places."""
    y = self.attended(x, layout, weights, VALUE)
    frames, grid = layout
    if self.tracks:
      own = x[:, :, : grid.class_tokens]
      y = rearrange(y, "b n t c -> b t n c")
      return jnp.concatenate([own, y], axis=2)
    if isinstance(self.block, WindowBlock):
      inner = self.block.window_grid(frames, grid)
      y = self.temporal.output(y, inner, frames)
      return self.block.join(y, frames, grid)
    return self.temporal.output(y, grid, frames)


def attention_layers(model: Backbone) -> list[Layer]:
  """Returns the attention layers of a model in the order in which they run.

  Inter-frame attention is none of them (`interframe_layers`): it has weights,
  but no shares that sum to one.

  Raises:
    ValueError: if the model has none.
  """
  found = []
  over_frames = isinstance(getattr(model, "head", None), TemporalAttentionHead)
  modules = {_dots(path): m for path, m in nnx.iter_modules(model)}
  names = sorted(modules, key=_natural)
  for name in names:
    block = modules[name]
    attention = getattr(block, "attention", None)
    plug = getattr(block, "temporal", None)
    if not isinstance(attention, Attention) or plug is None:
      continue
    if isinstance(plug, DividedAttention):
      found.append(
        Layer(
          f"{name}.temporal.attention",
          block,
          name,
          Temporal(),
          plug.attention.heads,
          tracks=True,
        )
      )
    found.append(
      Layer(
        f"{name}.attention",
        block,
        name,
        plug,
        attention.heads,
        over_frames=over_frames and name.startswith("head."),
      )
    )
  if not found:
    raise ValueError(
      f"a {type(model).__name__} has no softmax attention to look at; use the "
      "method saliency, or offsets if it has inter-frame attention"
    )
  # The head's come behind the backbone's.
  return sorted(found, key=lambda layer: layer.over_frames)


def interframe_layers(model: Backbone) -> dict[str, InterFrameAttention]:
  """Returns the inter-frame attentions of a model that can run, by path.

  Raises:
    ValueError: if the model has none.
  """
  found = {}
  modules = {_dots(path): m for path, m in nnx.iter_modules(model)}
  for name in sorted(modules, key=_natural):
    plug = modules[name]
    if isinstance(plug, InterFrame) and plug.attention is not None:
      found[f"{name}.attention"] = plug.attention
  if not found:
    raise ValueError(
      f"this {type(model).__name__} has no inter-frame attention, so there are "
      "no offsets to draw; use the method attention, rollout or saliency"
    )
  return found


def pick(wanted: str | None, names: list[str]) -> str:
  """Returns the layer that a name, a part of one in front, or a number means.

  Args:
    wanted: "blocks.3.attention", "blocks.3" or the number in the list, from 0;
      negative ones count from its end; None is the last.
    names: of all layers.

  Raises:
    ValueError: if it means none or several; the message lists all names.
  """
  if wanted is None:
    return names[-1]
  try:
    return names[int(wanted)]
  except (ValueError, IndexError):
    pass
  fitting = [n for n in names if n == wanted or n.startswith(f"{wanted}.")]
  if len(fitting) == 1 or wanted in fitting:
    return wanted if wanted in fitting else fitting[0]
  listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
  problem = "several layers are" if fitting else "there is no layer"
  raise ValueError(f"{problem} {wanted!r}; use one of {listed}")


def layout_of(layer: Layer, grid: Array) -> Layout:
  """Returns the layout of a layer's tokens from its block's `grid`."""
  frames, *rest = np.asarray(grid).tolist()
  return Layout(frames, Grid(*rest))


def uniform(layer: Layer, layout: Layout) -> jax.Array:
  """Returns ones in the place of the tokens (1 t n c)."""
  return jnp.ones((1, layout.frames, layout.tokens, layer.channels))


def _dots(path: tuple[Any, ...]) -> str:
  return ".".join(map(str, path))


def _natural(name: str) -> list[tuple[bool, int, str]]:
  """Sorts numbers in names by value."""
  parts = name.split(".")
  return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]
