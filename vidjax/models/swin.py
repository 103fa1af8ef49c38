"""Swin transformer on video, with a temporal plug in its blocks.

Frames keep apart (windows of one frame; Liu et al. 2021) and the plug joins
them: "patch_shift" gives TPS's PST (Xiang et al. 2022). Windows of several
frames give Video Swin (Liu et al. 2022), the baseline.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, one_of, rates
from vidjax.models.backbone import REMAT, Backbone
from vidjax.models.heads import make_head
from vidjax.nn.init import LinearInit, vit_init
from vidjax.nn.layers import LayerNorm, PatchEmbed, linear
from vidjax.nn.plugs import make_plugs
from vidjax.nn.temporal import BlockShape, Grid, Temporal
from vidjax.nn.windows import KEY_FRAMES, RelativeBias, WindowBlock
from vidjax.ops.windows import Size

PST = MappingProxyType({"op": "patch_shift"})
AVERAGE = MappingProxyType(
  {"kind": "average", "drop_mean": True, "init_std": 0.01}
)

_NORM_EPS = 1e-5


class PatchMerging(nnx.Module):
  """Joins 2 x 2 tokens: norm of their 4c channels, linear layer to 2c."""

  def __init__(
    self, dim: int, init: LinearInit, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    random = {"dtype": dtype, "rngs": rngs}
    self.norm = LayerNorm(4 * dim, eps=_NORM_EPS, **random)
    self.reduction = linear(4 * dim, 2 * dim, init=init, bias=False, **random)

  def __call__(
    self, x: Float[jax.Array, "b t h w c"]
  ) -> Float[jax.Array, "b t y x c2"]:
    """Halves rows and columns; odd ones get a zero at the end."""
    return self.reduction(self.norm(self.gather(x)))

  @staticmethod
  def gather(
    x: Float[jax.Array, "b t h w c"],
  ) -> Float[jax.Array, "b t y x c4"]:
    """Puts the channels of 2 x 2 tokens side by side, column by column."""
    h, w = x.shape[2:4]
    x = jnp.pad(x, [(0, 0), (0, 0), (0, h % 2), (0, w % 2), (0, 0)])
    return rearrange(x, "b t (y p) (x q) c -> b t y x (q p c)", p=2, q=2)


class Stage(nnx.Module):
  """Blocks of one width, and the merging that follows unless it is last."""

  def __init__(self, blocks: list[WindowBlock], merge: PatchMerging | None):
    self.blocks = nnx.List(blocks)
    self.merge = merge


class Swin(Backbone):
  """Swin on every frame of a clip, a plug between frames, a head over them.

  Args:
    num_classes: logits k.
    image_size: side in pixels of the square frames that it is trained on; it
      runs at any size at which no stage's map is smaller than a window.
    patch_size: frames, rows and columns of a patch; what is missing to whole
      patches is zero.
    dim: channels c of the first stage; each next one has twice as many.
    depths: blocks of each stage.
    heads: attention heads g of each stage.
    window: frames, rows and columns of a window. More than one frame is joint
      attention, which no plug can join.
    mlp_ratio: hidden width of the MLPs over the channels.
    qkv_bias: whether q, k and v have a bias.
    patch_norm: whether the patch embedding ends with a norm.
    temporal: the plug, `{"op": name, **arguments}` (`vidjax.nn.plugs`).
    bias_frames: frames of tokens (frames of a clip over those of a patch) that
      the position bias is made for; 1 for a bias without time, which serves
      any number. Windows of several frames use their own number.
    bias_key_frame: "first" (official TPS) or "same"
      (`vidjax.nn.windows.RelativeBias`).
    head: `{"kind": name, **arguments}` (`vidjax.models.heads`).
    dropout_rate: of the head.
    drop_path: rate in the last block; it grows linearly from 0.
    drop_whole_clips: whether all frames of a clip drop a branch together (TPS,
      Video Swin) or each for itself (SIFA).
    attention_dropout: rate of dropped attention weights.
    frozen_stages: how many parts, counted from the patch embedding, neither
      train nor drop: 0 none, 1 the embedding, 2 also the first stage, ...
    init_std: deviation of the initial weights.
    remat: "none", or "block" to recompute the blocks' activations in the
      backward pass instead of keeping them.
    dtype: compute dtype; parameters, norms and softmax are float32.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is out of range or options do not fit together.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    image_size: int = 224,
    patch_size: Sequence[int] = (2, 4, 4),
    dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: Sequence[int] = (1, 7, 7),
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    patch_norm: bool = True,
    temporal: Mapping[str, Any] = PST,
    bias_frames: int = 16,
    bias_key_frame: str = "first",
    head: Mapping[str, Any] = AVERAGE,
    dropout_rate: float = 0.5,
    drop_path: float = 0.1,
    drop_whole_clips: bool = True,
    attention_dropout: float = 0.0,
    frozen_stages: int = 0,
    init_std: float = 0.02,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    at_least(1, num_classes=num_classes, dim=dim, bias_frames=bias_frames)
    rates(
      dropout_rate=dropout_rate,
      drop_path=drop_path,
      attention_dropout=attention_dropout,
    )
    self.image_size = image_size
    self.remat = one_of("remat", remat, REMAT)
    self.frozen_stages = frozen_stages
    self.frozen = _frozen(frozen_stages, len(depths))
    random = {"dtype": dtype, "rngs": rngs}
    init = vit_init(init_std)
    self.patch_embed = PatchEmbed(
      _three("patch_size", patch_size), dim, **random
    )
    self.patch_norm = (
      LayerNorm(dim, eps=_NORM_EPS, **random) if patch_norm else None
    )
    shapes = _shapes(dim, depths, heads, init)
    cut = _three("window", window)
    one_of("bias_key_frame", bias_key_frame, KEY_FRAMES)
    table = (cut[0] if cut[0] > 1 else bias_frames, *cut[1:])
    blocks = [
      WindowBlock(
        shape,
        plug,
        window=cut,
        bias=RelativeBias(
          table, shape.heads, key_frame=bias_key_frame, std=init_std, rngs=rngs
        ),
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
        drop_path=float(rate),
        drop_whole_clips=drop_whole_clips,
        attention_dropout=attention_dropout,
        **random,
      )
      for shape, plug, rate in zip(
        shapes,
        _plugs(temporal, shapes, cut, random),
        np.linspace(0, drop_path, len(shapes)),
        strict=True,
      )
    ]
    last = len(depths) - 1
    self.stages = nnx.List(
      Stage(
        [
          b for b, shape in zip(blocks, shapes, strict=True) if shape.stage == i
        ],
        PatchMerging(dim * 2**i, init, **random) if i < last else None,
      )
      for i in range(len(depths))
    )
    out = dim * 2**last
    self.norm = LayerNorm(out, eps=_NORM_EPS, **random)
    self.head = make_head(
      head, out, num_classes, dropout_rate=dropout_rate, **random
    )

  def features(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b s c"]:
    """Returns the mean of the normed tokens of every patch of frames."""
    x = self.embed(video)
    for number, stage in enumerate(self.stages):
      if number + 1 == self.frozen_stages:
        x = lax.stop_gradient(x)
      grid = Grid(0, *x.shape[2:4])
      tokens = rearrange(x, "b t h w c -> b t (h w) c")
      trains = train and number + 1 >= self.frozen_stages
      for block in stage.blocks:
        tokens = self.run(block, tokens, grid, train=trains, rngs=rngs)
      x = rearrange(tokens, "b t (h w) c -> b t h w c", h=grid.height)
      if stage.merge is not None:
        x = stage.merge(x)
    if self.frozen_stages > len(self.stages):
      x = lax.stop_gradient(x)
    return self.norm(x).mean(axis=(2, 3))

  def embed(
    self, video: Float[jax.Array, "b t h w 3"]
  ) -> Float[jax.Array, "b s y x c"]:
    """Returns the tokens that enter the first stage."""
    missing = [
      -n % m
      for n, m in zip(video.shape[1:4], self.patch_embed.size, strict=True)
    ]
    video = jnp.pad(video, [(0, 0), *((0, n) for n in missing), (0, 0)])
    x = self.patch_embed(video)
    return x if self.patch_norm is None else self.patch_norm(x)


def _shapes(
  dim: int, depths: Sequence[int], heads: Sequence[int], init: LinearInit
) -> list[BlockShape]:
  if len(depths) != len(heads):
    raise ValueError(
      f"depths {tuple(depths)} and heads {tuple(heads)} differ in length; give "
      "a number of each for every stage"
    )
  return [
    BlockShape(dim * 2**stage, heads[stage], _NORM_EPS, init, stage, place)
    for stage, depth in enumerate(depths)
    for place in range(depth)
  ]


def _plugs(
  temporal: Mapping[str, Any],
  shapes: list[BlockShape],
  window: Size,
  random: Mapping[str, Any],
) -> list[Temporal]:
  plugs = make_plugs(temporal, shapes, **random)
  if window[0] > 1 and any(type(plug) is not Temporal for plug in plugs):
    raise ValueError(
      f"windows of {window[0]} frames attend over time themselves, so "
      f"temporal.op={temporal['op']!r} has no place in them; use "
      '{"op": "none"} or windows of one frame'
    )
  return plugs


def _three(name: str, values: Sequence[int]) -> Size:
  if len(values) != 3 or min(values) < 1:
    raise ValueError(
      f"{name} is {tuple(values)}; give frames, rows and columns, each >= 1"
    )
  return values[0], values[1], values[2]


def _frozen(parts: int, stages: int) -> tuple[str, ...]:
  """Paths of the parameters of the first parts of the backbone."""
  if not 0 <= parts <= stages + 1:
    raise ValueError(
      f"frozen_stages is {parts}; use 0 (none) to {stages + 1} (the patch "
      f"embedding and {stages} stages)"
    )
  embedding = (r"^patch_(embed|norm)/",) if parts else ()
  return (*embedding, *(rf"^stages/{i}/" for i in range(parts - 1)))
