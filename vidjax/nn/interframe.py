"""Stand-alone inter-frame attention (SIFA): the layer, and the plug.

Long et al. 2022. The operation itself is `vidjax.ops.interframe`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, one_of
from vidjax.nn.convolution import NarrowConv, pointwise
from vidjax.nn.init import torch_init
from vidjax.nn.intermediates import hand_out
from vidjax.nn.layers import LayerNorm, linear
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens
from vidjax.ops import halo
from vidjax.ops.interframe import SCORES, displacements, interframe_attention
from vidjax.ops.neighbour_weights import neighbour_places, neighbour_weights

Maps = Float[jax.Array, "b t h w c"]
Pairs = Float[jax.Array, "b s h w c"]


def _saliency(now: jax.Array, later: jax.Array) -> jax.Array:
  return jax.nn.sigmoid(later - now) * later


# What the offsets of a frame and the next one are predicted from (section 3.2
# and Table 1b). The official code adds the next frame to the paper's motion
# saliency map.
SOURCES: dict[str, Callable[[Pairs, Pairs], jax.Array]] = {
  "rescaled": lambda now, later: _saliency(now, later) + later,
  "saliency": _saliency,
  "next": lambda now, later: later,
  "difference": lambda now, later: later - now,
}
OFFSETS = ("none", *SOURCES, "conv3d")
OFFSET_INITS = ("kaiming", "zero")


class OffsetPrediction(nnx.Module):
  """A convolution 3 x 3 to the offsets of all neighbours, without bias.

  Args:
    dim: channels c.
    neighbours: their number n.
    source: a name of `SOURCES`, or "conv3d": the frame before, both frames'
      own and the one after are convolved (3 x 3 x 3).
    init: "kaiming" (official code) or "zero", which starts on the regular
      grid.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    neighbours: int,
    *,
    source: str,
    init: str,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.source = source
    taps = 3 if source == "conv3d" else 1
    self.conv = NarrowConv(
      taps * dim, 2 * neighbours, 3, dtype=dtype, rngs=rngs
    )
    if one_of("offset_init", init, OFFSET_INITS) == "zero":
      self.conv.kernel.set_value(jnp.zeros_like(self.conv.kernel[...]))

  def __call__(self, x: Maps) -> Float[jax.Array, "b s h w n 2"]:
    """Returns rows and columns for the s = t - 1 pairs of frames."""
    if self.source == "conv3d":
      given = three_frames(x)[:, 1:]
    else:
      given = SOURCES[self.source](x[:, :-1], x[:, 1:])
    y = self.conv(given)
    return rearrange(y, "b s h w (n o) -> b s h w n o", o=2)


def three_frames(
  x: Float[jax.Array, "b t *rest c"],
) -> Float[jax.Array, "b t *rest c3"]:
  """Puts the channels of the frames t - 1, t and t + 1 side by side.

  Frames outside of the clip are zero. A linear layer on it is a convolution
  of three frames.
  """

  def join(x: jax.Array) -> jax.Array:
    frames = x.shape[1]
    past, future = (halo.frames_from(x, first, frames) for first in (-1, 1))
    return jnp.concatenate([past, x, future], axis=-1)

  return halo.over_frames(join, x)


class InterFrameAttention(nnx.Module):
  """What the frames of a map receive from the next ones.

  It hands out (`vidjax.nn.intermediates`) the `places` (b s h w n 2) that each
  position looks at in the next frame, rows and columns, and their `weights`.

  Args:
    dim: channels c.
    kernel: K of the K x K neighbours.
    dilation: distance of neighbours that lie side by side.
    offsets: what they are predicted from, one of `OFFSETS`: "rescaled"
      (official code), "saliency" (the paper's equation), "next", "difference"
      or "conv3d"; "none" is the regular grid.
    offset_init: "kaiming" (official code) or "zero".
    score: "scaled" or "softmax" (`vidjax.ops.interframe`).
    projections: whether q, k and v are linear in the map and not the map.
    dtype: compute dtype; scores and places are float32.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is unknown or out of range.
  """

  def __init__(
    self,
    dim: int,
    *,
    kernel: int = 3,
    dilation: int = 1,
    offsets: str = "rescaled",
    offset_init: str = "kaiming",
    score: str = "scaled",
    projections: bool = False,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    neighbours = len(displacements(kernel, dilation))
    one_of("offset_init", offset_init, OFFSET_INITS)
    self.kernel = kernel
    self.dilation = dilation
    self.score = one_of("score", score, SCORES)
    self.offset = (
      None
      if one_of("offsets", offsets, OFFSETS) == "none"
      else OffsetPrediction(
        dim,
        neighbours,
        source=offsets,
        init=offset_init,
        dtype=dtype,
        rngs=rngs,
      )
    )
    self.reach = 2 if offsets == "conv3d" else 1
    self.projections = (
      nnx.List(pointwise(dim, dim, dtype=dtype, rngs=rngs) for _ in range(3))
      if projections
      else None
    )

  def __call__(self, x: Maps) -> Maps:
    """Returns Y of the maps; the last frame's is zero.

    Of frames that are split over devices one crosses each border, with offsets
    of "conv3d" two.
    """
    hand_out(
      self,
      places=lambda: neighbour_places(x, self._offsets(x), **self._grid),
      weights=lambda: neighbour_weights(
        *self._qkv(x)[:2], self._offsets(x), score=self.score, **self._grid
      ),
    )
    return halo.over_frames(self._of_shard, x)

  def _of_shard(self, x: Maps) -> Maps:
    frames = x.shape[1]
    if halo.axis_size() == 1:
      return self._of_clip(x)
    # The clip's last frame asks maps of zeros, which give it nothing.
    more = halo.frames_from(x, 0, frames + self.reach)
    return self._of_clip(more)[:, :frames]

  def _of_clip(self, x: Maps) -> Maps:
    return interframe_attention(
      *self._qkv(x), self._offsets(x), score=self.score, **self._grid
    )

  def _qkv(self, x: Maps) -> tuple[Maps, Maps, Maps]:
    if self.projections is None:
      return x, x, x
    q, k, v = (project(x) for project in self.projections)
    return q, k, v

  def _offsets(self, x: Maps) -> Float[jax.Array, "b s h w n 2"] | None:
    return None if self.offset is None else self.offset(x)

  @property
  def _grid(self) -> dict[str, int]:
    return {"kernel": self.kernel, "dilation": self.dilation}


PLACES = ("all", "even", "odd")
PLACEMENTS = ("after", "branch")


class InterFrame(Temporal):
  """SIFA in a block: each frame adds what it receives from the next one.

  Class tokens stay as they are. The defaults are those of the official code
  of SIFA-Swin: behind the attention's residual addition, without offsets,
  through a norm that starts at zero; blocks with shifted windows convolve over
  time instead. The paper's figure has `placement="branch"`, `norm=False` and
  `convolve=False`.

  Which of a stage's blocks have shifted windows depends on the size of its
  map: where one window fills it, none. With `convolve` every block has the
  parameters of both, as the official weights do.

  Args:
    block: shape and place of the block.
    places: which blocks of a stage attend: "all", "even" (0, 2, ...) or "odd".
    window: side of the backbone's windows; on a map that one window fills,
      all blocks attend. 0 if there are none.
    convolve: whether the blocks that do not attend add a convolution over
      three frames.
    norm: whether a layer norm, zero at the start, follows the attention.
    placement: "after" the residual addition of the attention unit, or on the
      "branch" that it adds.
    kernel: K of the K x K neighbours, or one for each stage.
    dilation: see `InterFrameAttention`, as the next four.
    offsets: one of `OFFSETS`.
    offset_init: "kaiming" or "zero".
    score: "scaled" or "softmax".
    projections: whether q, k and v are linear in the map.
    dtype: compute dtype.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is unknown or out of range.
  """

  def __init__(
    self,
    block: BlockShape,
    *,
    places: str = "even",
    window: int = 7,
    convolve: bool = True,
    norm: bool = True,
    placement: str = "after",
    kernel: int | Sequence[int] = 3,
    dilation: int = 1,
    offsets: str = "none",
    offset_init: str = "kaiming",
    score: str = "scaled",
    projections: bool = False,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    at_least(0, window=window)
    one_of("places", places, PLACES)
    self.chosen = places in ("all", ("even", "odd")[block.place % 2])
    self.window = window
    self.placement = one_of("placement", placement, PLACEMENTS)
    random = {"dtype": dtype, "rngs": rngs}
    attends = self.chosen or window > 0
    attention = InterFrameAttention(
      block.dim,
      kernel=_of_stage(kernel, block.stage),
      dilation=dilation,
      offsets=offsets,
      offset_init=offset_init,
      score=score,
      projections=projections,
      **random,
    )
    self.attention = attention if attends else None
    self.norm = None
    if norm and attends:
      zero_norm = LayerNorm(block.dim, eps=block.norm_eps, **random)
      zero_norm.scale = nnx.Param(jnp.zeros((block.dim,)))
      self.norm = nnx.data(zero_norm)
    self.conv = (
      linear(3 * block.dim, block.dim, init=torch_init, bias=False, **random)
      if convolve
      else None
    )

  def branch(self, y: Tokens, grid: Grid) -> Tokens:
    """Changes what the attention unit adds to the residual stream."""
    if self.placement == "branch" and self._attends(grid):
      return self._on_maps(self._receive, y, grid)
    return y

  def after(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Adds what the frames receive, or the convolution over time."""
    del train, rngs
    if self._attends(grid):
      if self.placement == "branch":
        return x
      return self._on_maps(self._receive, x, grid)
    if self.conv is None:
      return x
    conv = self.conv
    return self._on_maps(lambda maps: maps + conv(three_frames(maps)), x, grid)

  def _attends(self, grid: Grid) -> bool:
    return self.chosen or min(grid.height, grid.width) <= self.window

  def _receive(self, maps: Maps) -> Maps:
    assert self.attention is not None
    y = self.attention(maps)
    return maps + (y if self.norm is None else self.norm(y))

  @staticmethod
  def _on_maps(change: Callable[[Maps], Maps], x: Tokens, grid: Grid) -> Tokens:
    first = grid.class_tokens
    maps = rearrange(x[:, :, first:], "b t (h w) c -> b t h w c", h=grid.height)
    changed = rearrange(change(maps), "b t h w c -> b t (h w) c")
    return jnp.concatenate([x[:, :, :first], changed], axis=2)


def _of_stage(kernel: int | Sequence[int], stage: int) -> int:
  if isinstance(kernel, int):
    return kernel
  if stage >= len(kernel):
    raise ValueError(
      f"kernel is {tuple(kernel)}, but there is a stage {stage}, counted from "
      "0; give a kernel for every stage, or one number"
    )
  return kernel[stage]
