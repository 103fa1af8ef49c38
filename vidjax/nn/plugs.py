"""The temporal plugs by name, each a few lines around its operation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.checks import at_least, known_arguments, one_of
from vidjax.nn.attention import Attention
from vidjax.nn.init import zero_init
from vidjax.nn.layers import layer_norm, linear
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens
from vidjax.ops.channel_shift import shift_channels
from vidjax.ops.mixing import check_segment, mix_frames, mixing_offsets


class Mixing(Temporal):
  """X-ViT's space-time mixing (Bulat et al. 2021, section 3).

  Args:
    block: shape of the block.
    mix: what is mixed: "kv" (the paper's choice), "k", "v", "x" (the tokens
      ahead of the projection) or "none".
    shift_div: see `vidjax.ops.mixing.mix_frames`, as the next three.
    window: temporal half-window t_w in frames.
    boundary_only: only the frames at exactly +t_w and -t_w.
    segment: frames that may exchange information; None is the whole clip.
    split: "channels" splits the whole channel axis (official code), "heads"
      every head (the paper's Eq. 9).
    summary_tokens: experimental (no reference output exists): every frame's
      keys and values are joined by the mean of the patches' unmixed ones of
      each frame of the segment (section 3, "summary token").
  """

  def __init__(
    self,
    block: BlockShape,
    *,
    mix: str = "kv",
    shift_div: int = 8,
    window: int = 1,
    boundary_only: bool = False,
    segment: int | None = None,
    split: str = "channels",
    summary_tokens: bool = False,
  ):
    mixing_offsets(window, boundary_only)  # fails here on a bad window
    at_least(2, shift_div=shift_div)
    self.mixed = one_of("mix", mix, ("kv", "k", "v", "x", "none"))
    one_of("split", split, ("channels", "heads"))
    self.heads = block.heads if split == "heads" else None
    self.shift_div = shift_div
    self.window = window
    self.boundary_only = boundary_only
    self.segment = segment
    self.summary_tokens = summary_tokens

  def _mix(self, x: Tokens, name: str) -> Tokens:
    if self.mixed == "none" or name not in self.mixed:
      return x
    return mix_frames(
      x,
      shift_div=self.shift_div,
      window=self.window,
      boundary_only=self.boundary_only,
      segment=self.segment,
      heads=self.heads,
    )

  def tokens(self, x: Tokens, grid: Grid) -> Tokens:
    """Mixes the tokens themselves if `mix` is "x"."""
    del grid
    return self._mix(x, "x")

  def qkv(
    self, q: Tokens, k: Tokens, v: Tokens, grid: Grid
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixes keys and values; queries never are."""
    mixed_k, mixed_v = self._mix(k, "k"), self._mix(v, "v")
    if self.summary_tokens:
      mixed_k = self._join_summaries(mixed_k, k, grid)
      mixed_v = self._join_summaries(mixed_v, v, grid)
    return q, mixed_k, mixed_v

  def _join_summaries(self, mixed: Tokens, raw: Tokens, grid: Grid):
    segment = check_segment(raw.shape[1], self.segment)
    means = raw[:, :, grid.class_tokens :].mean(axis=2)
    summaries = rearrange(means, "b (m s) c -> b m s c", s=segment)
    summaries = repeat(summaries, "b m s c -> b (m t) s c", t=segment)
    return jnp.concatenate([mixed, summaries], axis=2)


class ChannelShift(Temporal):
  """TSM's zero-ended channel shift of the tokens (Lin et al. 2019).

  One fold of `dim // fold_div` channels comes from the next frame and one
  from the previous.
  """

  def __init__(self, block: BlockShape, *, fold_div: int = 8):
    at_least(2, fold_div=fold_div)
    self.fold = block.dim // fold_div

  def tokens(self, x: Tokens, grid: Grid) -> Tokens:
    """Shifts the channels of all tokens."""
    del grid
    return shift_channels(x, (1, -1), self.fold)


class TokenShift(Temporal):
  """TokShift: the class token's channel shift, twice a block.

  It acts on the residual stream itself, so the skip path carries the shifted
  token (Zhang et al. 2021).
  """

  def __init__(self, block: BlockShape, *, fold_div: int = 4):
    at_least(2, fold_div=fold_div)
    self.fold = block.dim // fold_div

  def _shift(self, x: Tokens, grid: Grid) -> Tokens:
    if grid.class_tokens != 1:
      raise ValueError(
        f"token_shift moves one class token, but this backbone has "
        f"{grid.class_tokens}; use channel_shift instead"
      )
    return x.at[:, :, 0].set(shift_channels(x[:, :, 0], (1, -1), self.fold))

  def before(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Shifts the class token ahead of the attention unit."""
    del train, rngs
    return self._shift(x, grid)

  def after(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Shifts it again ahead of the MLP unit."""
    del train, rngs
    return self._shift(x, grid)


class JointAttention(Temporal):
  """Every token attends to all tokens of all frames of the clip."""

  def qkv(
    self, q: Tokens, k: Tokens, v: Tokens, grid: Grid
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Joins the frames of a clip to a single long one."""
    del grid
    q, k, v = (rearrange(x, "b t n c -> b 1 (t n) c") for x in (q, k, v))
    return q, k, v

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Cuts the long frame into the clip's frames."""
    del grid
    return rearrange(y, "b 1 (t n) c -> b t n c", t=frames)


class DividedAttention(Temporal):
  """TimeSformer's divided space-time attention (Bertasius et al. 2021).

  Ahead of the spatial attention each patch attends to its own position in all
  frames, through a norm, an attention and a linear layer that starts at zero.
  Class tokens that enter equal stay equal, which is TimeSformer's single one:
  what spatial attention gives them is averaged over the frames.
  """

  def __init__(self, block: BlockShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
    dim = block.dim
    self.norm = layer_norm(dim, eps=block.norm_eps, dtype=dtype, rngs=rngs)
    self.attention = Attention(
      dim, block.heads, init=block.init, dtype=dtype, rngs=rngs
    )
    self.fc = linear(dim, dim, init=zero_init, dtype=dtype, rngs=rngs)

  def before(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Adds the temporal attention of the patches."""
    first = grid.class_tokens
    tracks = rearrange(x[:, :, first:], "b t n c -> b n t c")
    y = self.attention(
      self.norm(tracks), Temporal(), grid, train=train, rngs=rngs
    )
    return x.at[:, :, first:].add(rearrange(self.fc(y), "b n t c -> b t n c"))

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Averages what the class tokens received."""
    del frames
    classes = y[:, :, : grid.class_tokens]
    mean = classes.mean(axis=1, keepdims=True)
    return y.at[:, :, : grid.class_tokens].set(
      jnp.broadcast_to(mean, classes.shape)
    )


PLUGS: dict[str, type[Temporal]] = {
  "none": Temporal,
  "mixing": Mixing,
  "channel_shift": ChannelShift,
  "token_shift": TokenShift,
  "joint": JointAttention,
  "divided": DividedAttention,
}


def make_plugs(
  options: Mapping[str, Any],
  blocks: list[BlockShape],
  *,
  dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> list[Temporal]:
  """Builds the plug of every block of a backbone.

  Args:
    options: "op" names the operation, "blocks" (optional, None = all) the
      indices of the blocks that have it, and the rest are its arguments;
      other blocks stay inside the frame.
    blocks: the shape of each block.
    dtype: compute dtype.
    rngs: keys of the initial values of plugs with parameters.

  Raises:
    ValueError: if the operation, one of its arguments or a block index is
      unknown.
  """
  arguments = dict(options)
  op = one_of("temporal.op", arguments.pop("op", None), tuple(PLUGS))
  chosen = arguments.pop("blocks", None)
  chosen = range(len(blocks)) if chosen is None else tuple(chosen)
  unknown = [i for i in chosen if not 0 <= i < len(blocks)]
  if unknown:
    raise ValueError(
      f"temporal.blocks has {unknown}, but the model's blocks are numbered 0 "
      f"to {len(blocks) - 1}"
    )

  def plug(index: int, block: BlockShape) -> Temporal:
    if index not in chosen:
      return Temporal()
    keywords = known_arguments(
      f"temporal operation {op!r}",
      PLUGS[op].__init__,
      arguments,
      {"block": block, "dtype": dtype, "rngs": rngs},
    )
    return PLUGS[op](**keywords)

  return [plug(i, block) for i, block in enumerate(blocks)]
