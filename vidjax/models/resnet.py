"""ResNet on video in four stages, with a temporal plug in its bottlenecks.

With the "interframe" plug it is SIFA-Net (Long et al. 2022), with "none" its
baseline. Frames meet in the stem, where a few of them become one map, in the
plug, in global context blocks and in the pooling of the dual head; all other
layers see each map on its own.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, one_of, rates
from vidjax.models.backbone import REMAT, Backbone
from vidjax.nn.batch_norm import BatchNorm
from vidjax.nn.convolution import Conv, pointwise
from vidjax.nn.init import torch_init
from vidjax.nn.interframe import three_frames
from vidjax.nn.layers import dropout, linear
from vidjax.nn.plugs import make_plugs
from vidjax.nn.remat import run_block
from vidjax.nn.temporal import BlockShape, Grid, Temporal
from vidjax.ops.channel_shift import shift_channels
from vidjax.ops.halo import split_frames

SIFA = MappingProxyType(
  {
    "op": "interframe",
    "stages": (1, 2, 3),
    "places": "odd",
    "window": 0,
    "convolve": False,
    "norm": False,
    "offsets": "rescaled",
  }
)
EXPANSION = 4  # channels of a bottleneck over those inside
STEM_FRAMES = 4  # of the official code

_EPS = 1e-5

Maps = Float[jax.Array, "b t h w c"]
Logits = Float[jax.Array, "b k"]


class Stem(nnx.Module):
  """Convolution of 7 x 7 and some frames, batch norm, ReLU, maximum of 3 x 3.

  Rows and columns are halved twice; `frames` frames become one.
  """

  def __init__(
    self,
    frames: int,
    out: int,
    *,
    bn_groups: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.frames = frames
    self.conv = Conv(
      3 * frames, out, 7, stride=2, padding=3, dtype=dtype, rngs=rngs
    )
    # The kernel's fan-out counts its frames too.
    self.conv.kernel.set_value(self.conv.kernel[...] / frames**0.5)
    self.norm = BatchNorm(out, eps=_EPS, groups=bn_groups, dtype=dtype)

  def __call__(
    self, video: Float[jax.Array, "b t h w 3"], *, train: bool
  ) -> Float[jax.Array, "b s y x c"]:
    """Returns the maps that enter the first stage.

    Raises:
      ValueError: if the frames are no multiple of those that are joined.
    """
    frames = video.shape[1]
    if frames % self.frames:
      raise ValueError(
        f"the clip has {frames} frames, but the stem joins {self.frames} of "
        f"them at a time; use a multiple of {self.frames}"
      )
    joined = rearrange(video, "b (t s) h w c -> b t h w (s c)", s=self.frames)
    x = nnx.relu(self.norm(self.conv(joined), train=train))
    return halve(x)


def halve(x: Maps) -> Float[jax.Array, "b t y x c"]:
  """Maximum of 3 x 3 positions at every second row and column.

  Of maps without negative values: the border is zero. It is one axis after
  the other, of strided slices, whose gradient is faster than that of XLA's
  pooling.
  """
  for axis in (2, 3):
    out = (x.shape[axis] + 1) // 2
    edges = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, edges)
    parts = (
      lax.slice_in_dim(padded, i, i + 2 * out - 1, 2, axis) for i in range(3)
    )
    x = functools.reduce(larger, parts)
  return x


def larger(
  x: Float[jax.Array, "*s"], y: Float[jax.Array, "*s"]
) -> Float[jax.Array, "*s"]:
  """Returns the maximum, whose gradient always reaches one of the two.

  That of `jnp.maximum` and of a reduction compares with the result for
  equality. XLA may compute an operand twice, once fused and once not, with
  different roundings: then it is zero, or even NaN.
  """
  return jnp.where(x >= y, x, y)


class Shortcut(nnx.Module):
  """The skip path to other channels or a smaller map: linear, batch norm."""

  def __init__(
    self,
    dim: int,
    out: int,
    stride: int,
    *,
    bn_groups: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.stride = stride
    self.conv = pointwise(dim, out, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(out, eps=_EPS, groups=bn_groups, dtype=dtype)

  def __call__(self, x: Maps, *, train: bool) -> Float[jax.Array, "b t y x c2"]:
    """Takes every stride-th row and column."""
    kept = x[:, :, :: self.stride, :: self.stride]
    return self.norm(self.conv(kept), train=train)


class Context(nnx.Module):
  """Global context: two linear layers on the mean of all maps of the clip."""

  def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
    random = {"init": torch_init, "dtype": dtype, "rngs": rngs}
    self.fc1 = linear(dim, dim // 16, **random)
    self.fc2 = linear(dim // 16, dim, **random)

  def __call__(self, x: Maps) -> Float[jax.Array, "b 1 1 1 c"]:
    """Returns what every position of every frame is given."""
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return self.fc2(nnx.relu(self.fc1(mean)))


class Bottleneck(nnx.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolutions with batch norm around the skip path.

  The plug acts on the maps inside, between the second norm's ReLU and the last
  convolution.

  Args:
    kind: one of `KINDS`.
    dim: channels that enter.
    shape: channels inside, stage and place.
    stride: of rows and columns.
    temporal: the plug.
    bn_groups: see `vidjax.nn.batch_norm.BatchNorm`.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    kind: str,
    dim: int,
    shape: BlockShape,
    stride: int,
    temporal: Temporal,
    *,
    bn_groups: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    inner, out = shape.dim, EXPANSION * shape.dim
    random = {"dtype": dtype, "rngs": rngs}
    norm = {"eps": _EPS, "groups": bn_groups, "dtype": dtype}
    self.kind = kind
    taps = 3 if kind == "T" else 1
    self.conv1 = pointwise(taps * dim, inner, **random)
    self.norm1 = BatchNorm(inner, **norm)
    self.conv2 = Conv(inner, inner, 3, stride=stride, padding=1, **random)
    self.norm2 = BatchNorm(inner, **norm)
    self.temporal = temporal
    self.conv3 = pointwise(inner, out, **random)
    self.norm3 = BatchNorm(out, **norm)
    self.norm3.scale.set_value(jnp.zeros((out,)))
    self.context = Context(out, **random) if kind == "G" else None
    self.shortcut = (
      Shortcut(dim, out, stride, bn_groups=bn_groups, **random)
      if stride > 1 or dim != out
      else None
    )

  def __call__(self, x: Maps, *, train: bool) -> Float[jax.Array, "b t y x c2"]:
    """Applies the block."""
    y = self._between_frames(self.inner(x, train=train), train=train)
    y = self.norm3(self.conv3(y), train=train)
    if self.context is not None:
      y = y + self.context(y)
    skip = x if self.shortcut is None else self.shortcut(x, train=train)
    return nnx.relu(y + skip)

  def inner(self, x: Maps, *, train: bool) -> Float[jax.Array, "b t y x c3"]:
    """Returns the maps that the plug is given."""
    y = nnx.relu(self.norm1(self.conv1(self._joined(x)), train=train))
    return nnx.relu(self.norm2(self.conv2(y), train=train))

  def _joined(self, x: Maps) -> jax.Array:
    """What the first convolution sees."""
    if self.kind == "T":
      return three_frames(x)
    if self.kind == "M":
      return shift_channels(x, (1, -1), x.shape[-1] // 8)
    return x

  def _between_frames(self, x: Maps, *, train: bool) -> Maps:
    grid = Grid(0, *x.shape[2:4])
    tokens = rearrange(x, "b t h w c -> b t (h w) c")
    tokens = self.temporal.after(tokens, grid, train=train, rngs=None)
    return tokens.reshape(x.shape)


# What a letter of a stage's `blocks` stands for.
KINDS = {
  "B": "plain",
  "G": "global context",
  "M": "channel shift ahead of the first convolution (TSM, Lin et al. 2019)",
  "T": "first convolution over three frames",
}


class Classifier(nnx.Module):
  """Mean over the frames, dropout, linear layer."""

  def __init__(
    self,
    dim: int,
    num_classes: int,
    *,
    dropout_rate: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.dropout_rate = dropout_rate
    self.fc = linear(dim, num_classes, init=torch_init, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    features: Float[jax.Array, "b t c"],
    *,
    train: bool,
    rngs: nnx.Rngs | None,
  ) -> Logits:
    """Classifies clips."""
    mean = features.mean(axis=1)
    return self.fc(dropout(mean, self.dropout_rate, train=train, rngs=rngs))


class ResNet(Backbone):
  """ResNet with bottlenecks on every few frames of a clip.

  Batch norm in training needs several clips in each group, as any ResNet does.

  Args:
    num_classes: logits k.
    image_size: side in pixels of the square frames of its recipe; it runs at
      any size.
    dim: channels c of the stem, and inside of the first stage's blocks; each
      next stage has twice as many.
    depths: blocks of each stage.
    blocks: kinds of each stage's blocks in turn, from the first again after the
      last, by the letters of `KINDS`.
    temporal: the plug, `{"op": name, **arguments}` (`vidjax.nn.plugs`); it
      acts inside of the bottlenecks, on maps without attention, so that of its
      hooks `after` alone has a place.
    stem_frames: frames that the stem joins; 1 keeps all frames apart.
    dual_head: whether a second last stage and classifier see the maps at twice
      the resolution, with pairs of frames joined by their maximum.
    bn_groups: parts of the batch with batch statistics of their own
      (`vidjax.nn.batch_norm.BatchNorm`).
    dropout_rate: of the classifiers.
    remat: "none", or "block" to recompute the blocks' activations in the
      backward pass instead of keeping them.
    dtype: compute dtype; parameters and norms are float32.
    rngs: keys of the initial values.

  Raises:
    ValueError: if an option is unknown or options do not fit together.
  """

  def __init__(
    self,
    num_classes: int,
    *,
    image_size: int = 224,
    dim: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    blocks: Sequence[str] = ("B", "GB", "GB", "GB"),
    temporal: Mapping[str, Any] = SIFA,
    stem_frames: int = STEM_FRAMES,
    dual_head: bool = True,
    bn_groups: int = 1,
    dropout_rate: float = 0.5,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    at_least(1, num_classes=num_classes, dim=dim, stem_frames=stem_frames)
    rates(dropout_rate=dropout_rate)
    kinds = _kinds(depths, blocks)
    self.image_size = image_size
    self.remat = one_of("remat", remat, REMAT)
    random = {"dtype": dtype, "rngs": rngs}
    # The dual head's stage is one more with the shapes of the last.
    last = len(depths) - 1
    order = [*range(len(depths)), *([last] if dual_head else [])]
    shapes = [
      BlockShape(dim * 2**stage, 1, _EPS, torch_init, stage, place)
      for stage in order
      for place in range(depths[stage])
    ]
    plugs = make_plugs(temporal, shapes, **random)
    for plug in plugs:
      _check_plug(plug)
    parts = iter(zip(shapes, plugs, strict=True))
    self.stem = Stem(stem_frames, dim, bn_groups=bn_groups, **random)

    def stage(number: int, stride: int) -> list[Bottleneck]:
      enters = dim if number == 0 else EXPANSION * dim * 2 ** (number - 1)
      result = []
      for place, kind in enumerate(kinds[number]):
        shape, plug = next(parts)
        first = place == 0
        result.append(
          Bottleneck(
            kind,
            enters if first else EXPANSION * shape.dim,
            shape,
            stride if first else 1,
            plug,
            bn_groups=bn_groups,
            **random,
          )
        )
      return result

    self.stages = nnx.List(
      nnx.List(stage(number, 2 if number else 1))
      for number in range(len(depths))
    )
    out = EXPANSION * dim * 2**last
    head = {"dropout_rate": dropout_rate, **random}
    self.head = Classifier(out, num_classes, **head)
    self.dual_stage = nnx.List(stage(last, 1)) if dual_head else None
    self.dual_head = Classifier(out, num_classes, **head) if dual_head else None

  def head_logits(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> tuple[Float[jax.Array, "b k"], ...]:
    """Returns the float32 logits of each head, the main one first."""
    x = self._trunk(split_frames(video), train=train)
    branches = [(self.head, self._last_stage(x, train=train))]
    if self.dual_head is not None:
      branches.append((self.dual_head, self._dual_stage(x, train=train)))
    return tuple(
      head(features, train=train, rngs=rngs).astype(jnp.float32)
      for head, features in branches
    )

  def features(
    self,
    video: Float[jax.Array, "b t h w 3"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[jax.Array, "b s c"]:
    """Returns the mean of the main branch's maps, one of every few frames."""
    del rngs
    return self._last_stage(self._trunk(video, train=train), train=train)

  def _trunk(self, video: jax.Array, *, train: bool) -> jax.Array:
    x = self.stem(video, train=train)
    for stage in list(self.stages)[:-1]:
      x = self._run(stage, x, train=train)
    return x

  def _last_stage(self, x: Maps, *, train: bool) -> jax.Array:
    return self._run(self.stages[-1], x, train=train).mean(axis=(2, 3))

  def _dual_stage(self, x: Maps, *, train: bool) -> jax.Array:
    if x.shape[1] < 2:
      raise ValueError(
        f"the dual head joins pairs of maps, but a clip of "
        f"{self.stem.frames} frames has a single one; use "
        f"{2 * self.stem.frames} frames or more, or dual_head=False"
      )
    pairs = rearrange(
      x[:, : x.shape[1] // 2 * 2], "b (s i) h w c -> b s i h w c", i=2
    )
    joined = larger(pairs[:, :, 0], pairs[:, :, 1])
    return self._run(self.dual_stage, joined, train=train).mean(axis=(2, 3))

  def _run(self, stage: Any, x: jax.Array, *, train: bool) -> jax.Array:
    for block in stage:
      x = run_block(block, x, recompute=self.remat == "block", train=train)
    return x


def _kinds(depths: Sequence[int], blocks: Sequence[str]) -> list[list[str]]:
  """The kind of every block of every stage."""
  if len(depths) != len(blocks) or not all(blocks) or min(depths) < 1:
    raise ValueError(
      f"depths are {tuple(depths)} and blocks {tuple(blocks)}; give a number "
      "of 1 or more and at least one letter for every stage"
    )
  for letters in blocks:
    for letter in letters:
      one_of("a letter of blocks", letter, tuple(KINDS))
  return [
    [letters[i % len(letters)] for i in range(depth)]
    for depth, letters in zip(depths, blocks, strict=True)
  ]


def _check_plug(plug: Temporal) -> None:
  for hook in ("before", "tokens", "qkv", "output"):
    if getattr(type(plug), hook) is not getattr(Temporal, hook):
      raise ValueError(
        f"{type(plug).__name__} acts around an attention, which a ResNet has "
        'not; use the plug "interframe" or "none"'
      )
