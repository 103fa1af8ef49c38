"""Visformer on video, with a temporal plug in its attention blocks.

Visformer (Chen et al. 2021): convolutions at high resolution, attention in the
last two stages, batch norm everywhere. LAPS (Zhang et al. 2022) is this class
with the "leap" plug; the same weights fit every plug without parameters.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, one_of, rates
from vidjax.models.backbone import REMAT, Backbone
from vidjax.models.heads import make_head
from vidjax.nn.attention import Attention
from vidjax.nn.batch_norm import BatchNorm
from vidjax.nn.convolution import Conv, PatchConv, kaiming_init, pointwise
from vidjax.nn.functional import merge, split
from vidjax.nn.init import vit_init
from vidjax.nn.intermediates import hand_out
from vidjax.nn.layers import dropout, gelu
from vidjax.nn.plugs import make_plugs
from vidjax.nn.rngs import counted_rngs
from vidjax.nn.temporal import BlockShape, Grid, Temporal
from vidjax.ops.position import resize_grid

LAPS = MappingProxyType(
  {"op": "leap", "levels": (1, 2, 3), "shift": "periodic", "fold_div": 4}
)
AVERAGE = MappingProxyType({"kind": "average", "init_std": 0.02})
# Side of the patches that start each stage; the stem halves ahead of them.
PATCHES = (4, 2, 2)

_EPS = 1e-5

Maps = Float[jax.Array, "b t h w c"]
Smaller = Float[jax.Array, "b t y x c2"]


class Stem(nnx.Module):
  """Convolution 7 x 7 of stride 2, batch norm, ReLU."""

  def __init__(
    self, out: int, *, bn_groups: int, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.conv = Conv(3, out, 7, stride=2, padding=3, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(out, eps=_EPS, groups=bn_groups, dtype=dtype)

  def __call__(self, video: Maps, *, train: bool) -> Smaller:
    """Halves rows and columns, rounding up."""
    return nnx.relu(self.norm(self.conv(video), train=train))


class ConvMlp(nnx.Module):
  """Two pointwise layers around a GELU, or around a grouped convolution.

  Args:
    dim: channels c.
    hidden: channels between the layers.
    groups: of the convolution 3 x 3 in the middle; 0 for none.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    groups: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    random = {"dtype": dtype, "rngs": rngs}
    self.conv1 = pointwise(dim, hidden, **random)
    self.conv2 = (
      Conv(hidden, hidden, 3, padding=1, groups=groups, **random)
      if groups
      else None
    )
    self.conv3 = pointwise(hidden, dim, **random)

  def __call__(self, x: Maps) -> Maps:
    """Applies the layers."""
    x = gelu(self.conv1(x))
    if self.conv2 is not None:
      x = gelu(self.conv2(x))
    return self.conv3(x)


class BiasFreeAttention(Attention):
  """Attention whose projections are convolutions without bias."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    dropout_rate: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    super().__init__(
      dim,
      heads,
      qkv_bias=False,
      dropout_rate=dropout_rate,
      init=kaiming_init(3 * dim),
      dtype=dtype,
      rngs=rngs,
    )
    self.proj = pointwise(dim, dim, dtype=dtype, rngs=rngs)


class ConvBlock(nnx.Module):
  """The block of the first stage: x += mlp(norm(x)), inside each frame.

  Args:
    dim: channels c.
    hidden: channels inside the MLP.
    groups: of the MLP's convolution; 0 for none.
    bn_groups: see `vidjax.nn.batch_norm.BatchNorm`.
    drop_path: rate of dropped residual branches, frame by frame.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    groups: int = 0,
    *,
    bn_groups: int,
    drop_path: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.drop_path = drop_path
    self.norm2 = BatchNorm(dim, eps=_EPS, groups=bn_groups, dtype=dtype)
    self.mlp = ConvMlp(dim, hidden, groups, dtype=dtype, rngs=rngs)

  def __call__(self, x: Maps, *, train: bool, rngs: nnx.Rngs | None) -> Maps:
    """Applies the MLP unit."""
    y = self.mlp(self.norm2(x, train=train))
    return x + self._drop(y, train=train, rngs=rngs)

  def _drop(self, y: Maps, *, train: bool, rngs: nnx.Rngs | None) -> Maps:
    return dropout(y, self.drop_path, shared_axes=3, train=train, rngs=rngs)


class AttentionBlock(ConvBlock):
  """The block of the later stages: attention and MLP, with a plug.

  It hands out (`vidjax.nn.intermediates`) its `grid`: frames, class tokens,
  height and width.

  Args:
    shape: channels and heads.
    temporal: the plug.
    hidden: channels inside the MLP.
    bn_groups: see `ConvBlock`, as the next.
    drop_path: rate.
    attention_dropout: rate of dropped attention weights.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    shape: BlockShape,
    temporal: Temporal,
    hidden: int,
    *,
    bn_groups: int,
    drop_path: float,
    attention_dropout: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    random = {"dtype": dtype, "rngs": rngs}
    super().__init__(
      shape.dim, hidden, bn_groups=bn_groups, drop_path=drop_path, **random
    )
    self.temporal = temporal
    self.norm1 = BatchNorm(shape.dim, eps=_EPS, groups=bn_groups, dtype=dtype)
    self.attention = BiasFreeAttention(
      shape.dim, shape.heads, dropout_rate=attention_dropout, **random
    )

  def __call__(self, x: Maps, *, train: bool, rngs: nnx.Rngs | None) -> Maps:
    """Applies attention and MLP units and the plug's own steps."""
    grid = Grid(0, *x.shape[2:4])

    def tokens(x: jax.Array) -> jax.Array:
      return rearrange(x, "b t h w c -> b t (h w) c")

    def maps(x: jax.Array) -> jax.Array:
      return rearrange(x, "b t (h w) c -> b t h w c", h=grid.height)

    random: dict[str, Any] = {"train": train, "rngs": rngs}
    hand_out(self, grid=lambda: jnp.array([x.shape[1], *grid]))
    x = maps(self.temporal.before(tokens(x), grid, **random))
    y = tokens(self.norm1(x, train=train))
    y = self.attention(y, self.temporal, grid, **random)
    y = self.temporal.branch(y, grid)
    x = x + self._drop(maps(y), **random)
    x = maps(self.temporal.after(tokens(x), grid, **random))
    return super().__call__(x, **random)


class Stage(nnx.Module):
  """Patch embedding with batch norm and positions, then blocks."""

  def __init__(
    self,
    embed: PatchConv,
    norm: BatchNorm,
    position: Float[jax.Array, "h w c"],
    blocks: Sequence[ConvBlock],
  ):
    self.embed = embed
    self.norm = norm
    self.position = nnx.Param(position)
    self.blocks = nnx.List(blocks)

  def start(self, x: Maps, *, train: bool) -> Smaller:
    """Returns the maps that enter the first block.

    Positions of another size than the maps are resized (PyTorch bicubic); the
    official code runs at its own size only.

    Raises:
      ValueError: if no patch fits in the maps.
    """
    x = self.embed(x)
    height, width = x.shape[2:4]
    if 0 in (height, width):
      raise ValueError(
        "the frames are too small: a stage has no patch left; use frames of "
        "32 pixels or more"
      )
    x = self.norm(x, train=train)
    table = self.position[...]
    rows, columns, _ = table.shape
    if (rows, columns) != (height, width):
      scale = (height / rows, width / columns)
      table = resize_grid(table, (height, width), scale)
    return x + table.astype(x.dtype)


class Visformer(Backbone):
  """Visformer on every frame of a clip, a plug between frames, a head.

  Batch norm in training needs several clips in each group: with a single one
  the last norm and the average over the same values make logits that do not
  depend on the clip.

  Args:
    num_classes: logits k.
    image_size: side in pixels of the square frames that the position tables
      are made for; other sizes resize them.
    stem_width: channels of the first convolution.
    dim: channels c of the second stage; the first has half, the third twice
      as many.
    depths: blocks of each stage.
    heads: attention heads g of the second and third stage.
    mlp_ratio: hidden channels of their MLPs over their channels.
    conv_groups: of the convolutions in the first stage.
    temporal: the plug of the blocks with attention, which are numbered
      through from the second stage, `{"op": name, **arguments}`
      (`vidjax.nn.plugs`).
    bn_groups: parts of the batch with batch statistics of their own
      (`vidjax.nn.batch_norm.BatchNorm`).
    head: `{"kind": name, **arguments}` (`vidjax.models.heads`).
    dropout_rate: of the head.
    drop_path: rate in the last block; it grows linearly from 0.
    attention_dropout: rate of dropped attention weights.
    remat: "none", or "block" to recompute the blocks' activations in the
      backward pass instead of keeping them.
    dtype: compute dtype; parameters, norms and softmax are float32.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is unknown or out of range.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    image_size: int = 224,
    stem_width: int = 32,
    dim: int = 384,
    depths: Sequence[int] = (7, 4, 4),
    heads: int = 6,
    mlp_ratio: float = 4.0,
    conv_groups: int = 8,
    temporal: Mapping[str, Any] = LAPS,
    bn_groups: int = 1,
    head: Mapping[str, Any] = AVERAGE,
    dropout_rate: float = 0.0,
    drop_path: float = 0.0,
    attention_dropout: float = 0.0,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    at_least(1, num_classes=num_classes, stem_width=stem_width, heads=heads)
    at_least(1, conv_groups=conv_groups)
    rates(
      dropout_rate=dropout_rate,
      drop_path=drop_path,
      attention_dropout=attention_dropout,
    )
    if len(depths) != 3 or min(depths) < 0 or dim < 2 or dim % 2:
      raise ValueError(
        f"dim is {dim} and depths {tuple(depths)}; use an even dim and the "
        "number of blocks of each of three stages"
      )
    self.image_size = image_size
    self.remat = one_of("remat", remat, REMAT)
    random = {"dtype": dtype, "rngs": rngs}
    norm = {"groups": bn_groups, "dtype": dtype}
    dims = (dim // 2, dim, 2 * dim)
    shapes = [
      BlockShape(dims[stage], heads, _EPS, vit_init(0.02), stage, place)
      for stage in (1, 2)
      for place in range(depths[stage])
    ]
    plugs = iter(
      zip(shapes, make_plugs(temporal, shapes, **random), strict=True)
    )
    drop_rates = iter(np.linspace(0, drop_path, sum(depths)))

    def block(stage: int) -> ConvBlock:
      rest = {"bn_groups": bn_groups, "drop_path": float(next(drop_rates))}
      if stage == 0:
        return ConvBlock(dims[0], 2 * dims[0], conv_groups, **rest, **random)
      shape, plug = next(plugs)
      return AttentionBlock(
        shape,
        plug,
        int(mlp_ratio * shape.dim),
        attention_dropout=attention_dropout,
        **rest,
        **random,
      )

    self.stem = Stem(stem_width, bn_groups=bn_groups, **random)
    normal = nnx.initializers.normal(0.02)
    self.stages = nnx.List(
      Stage(
        PatchConv(before, out, side, **random),
        BatchNorm(out, eps=_EPS, **norm),
        normal(rngs.params(), (rows, rows, out)),
        [block(stage) for _ in range(depths[stage])],
      )
      for stage, (before, out, side, rows) in enumerate(
        zip(
          (stem_width, *dims),
          dims,
          PATCHES,
          grid_sides(image_size),
          strict=False,
        )
      )
    )
    self.norm = BatchNorm(dims[-1], eps=_EPS, **norm)
    self.head = make_head(
      head, dims[-1], num_classes, dropout_rate=dropout_rate, **random
    )

  def features(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b t c"]:
    """Returns the mean of the normed maps of every frame."""
    x = self.stem(video, train=train)
    for stage in self.stages:
      x = stage.start(x, train=train)
      for block in stage.blocks:
        x = self._run(block, x, train=train, rngs=rngs)
    return self.norm(x, train=train).mean(axis=(2, 3))

  def _run(
    self, block: ConvBlock, x: Maps, *, train: bool, rngs: nnx.Rngs | None
  ) -> Maps:
    """Applies a block, recomputing it in the backward pass if so chosen."""
    definition, params, running = split(block)

    def apply(params, x, key):
      copy = merge(definition, params, running)
      inner = None if key is None else counted_rngs(dropout=key)
      y = copy(x, train=train, rngs=inner)
      # Running statistics leave as a result: a change inside of what is
      # recomputed would not be seen outside.
      return y, split(copy)[2]

    # A key for each block: the same draws with and without recomputation.
    key = rngs.dropout() if train and rngs is not None else None
    if self.remat == "block":
      apply = jax.checkpoint(apply)
    y, stats = apply(params, x, key)
    if train:
      nnx.update(block, stats)
    return y


def grid_sides(image_size: int) -> tuple[int, int, int]:
  """Returns the rows of the three stages' maps for square frames.

  Raises:
    ValueError: if the frames are too small for the last stage.
  """
  first = (image_size + 1) // 2 // PATCHES[0]
  second = first // PATCHES[1]
  third = second // PATCHES[2]
  if third < 1:
    raise ValueError(
      f"image_size is {image_size}; use 31 pixels or more, so that the last "
      "stage has a row"
    )
  return first, second, third
