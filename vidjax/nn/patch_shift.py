"""The plugs of TPS's patch shift transformer (PST)."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from vidjax.checks import one_of
from vidjax.nn.channel_shift import ChannelShift
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens
from vidjax.ops.patch_shift import (
  check_pattern,
  mosaic,
  shift_patches,
  source_frames,
)


class PatchShift(Temporal):
  """TPS's patch shift around the attention (Xiang et al. 2022, section 3.2).

  Class tokens stay in their frame.

  Args:
    pattern: a name of `vidjax.ops.patch_shift.PATTERNS`, or rows of offsets.
    shift_back: whether the tokens return to their frames after the attention.
    shifted_bias: whether a position bias is looked up at the frames that the
      tokens come from.
  """

  def __init__(
    self,
    *,
    pattern: str | Sequence[Sequence[int]],
    shift_back: bool,
    shifted_bias: bool,
  ):
    self.pattern = check_pattern(pattern)
    self.shift_back = shift_back
    self.shifted_bias = shifted_bias

  def _offsets(self, grid: Grid) -> np.ndarray:
    patches = mosaic(self.pattern, grid.height, grid.width)
    return np.concatenate([np.zeros(grid.class_tokens, int), patches])

  def tokens(self, x: Tokens, grid: Grid) -> Tokens:
    """Brings tokens of other frames into each frame."""
    return shift_patches(x, self._offsets(grid))

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Takes every token back to its frame."""
    del frames
    return shift_patches(y, -self._offsets(grid)) if self.shift_back else y

  def source_frames(self, frames: int, grid: Grid) -> Int[np.ndarray, "t n"]:
    """Returns the frames that the tokens come from."""
    if not self.shifted_bias:
      return super().source_frames(frames, grid)
    return source_frames(frames, self._offsets(grid))


# What the even and the odd blocks of a stage do (Figure 4 and Table 2d, e; the
# order is that of the released code).
SCHEDULES = {
  "pst": ("channel", "patch"),
  "patch_only": ("none", "patch"),
  "channel_only": ("channel", "channel"),
  "all_patch": ("patch", "patch"),
  "none": ("none", "none"),
}


def temporal_patch_shift(
  block: BlockShape,
  *,
  schedule: str = "pst",
  pattern: str | Sequence[Sequence[int]] = "c9",
  shift_back: bool = True,
  shifted_bias: bool = True,
  border: str = "keep",
) -> Temporal:
  """Returns the plug of one block of TPS's patch shift transformer (PST).

  Args:
    block: shape and place of the block.
    schedule: a name of `SCHEDULES`: which blocks shift patches or channels.
    pattern: see `PatchShift`, as the next two.
    shift_back: of patch shift blocks.
    shifted_bias: of patch shift blocks.
    border: of channel shift blocks: "keep" (official code) or "zero" (TSM).
  """
  kinds = SCHEDULES[one_of("schedule", schedule, tuple(SCHEDULES))]
  patch = PatchShift(
    pattern=pattern, shift_back=shift_back, shifted_bias=shifted_bias
  )
  channel = ChannelShift(
    block, fold_div=8, offsets=(-1, 1), split="heads", border=border
  )
  plugs = {"none": Temporal(), "patch": patch, "channel": channel}
  return plugs[kinds[block.place % 2]]
