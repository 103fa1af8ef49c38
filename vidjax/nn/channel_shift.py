"""The plugs that shift channels: of all tokens, or of the class token."""

from collections.abc import Sequence

from einops import rearrange
from flax import nnx

from vidjax.checks import at_least, one_of
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens
from vidjax.ops.channel_shift import BORDERS, shift_channels


class ChannelShift(Temporal):
  """Channel shift of the tokens ahead of q, k and v (TSM, Lin et al. 2019).

  Args:
    block: shape of the block.
    fold_div: one of `fold_div` parts of the channels moves for each offset.
    offsets: frame, relative to its own, that each part comes from.
    split: "channels" cuts the parts from the whole channel axis (TSM), "heads"
      from every head (TPS).
    border: see `vidjax.ops.channel_shift.shift_channels`.
  """

  def __init__(
    self,
    block: BlockShape,
    *,
    fold_div: int = 8,
    offsets: Sequence[int] = (1, -1),
    split: str = "channels",
    border: str = "zero",
  ):
    at_least(len(offsets), fold_div=fold_div)
    self.offsets = tuple(offsets)
    self.groups = {"channels": 1, "heads": block.heads}[
      one_of("split", split, ("channels", "heads"))
    ]
    self.fold = block.dim // self.groups // fold_div
    self.border = one_of("border", border, BORDERS)

  def tokens(self, x: Tokens, grid: Grid) -> Tokens:
    """Shifts the channels of all tokens."""
    del grid
    parts = rearrange(x, "b t n (g d) -> b t n g d", g=self.groups)
    parts = shift_channels(parts, self.offsets, self.fold, border=self.border)
    return parts.reshape(x.shape)


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
