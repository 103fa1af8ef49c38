"""The transformer block of Swin: attention in windows, with a plug."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Float

from vidjax.nn.attention import Block
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens
from vidjax.ops.position_bias import Places, relative_bias
from vidjax.ops.windows import (
  Size,
  cut_windows,
  fit_window,
  join_windows,
  padded_size,
  window_mask,
)

KEY_FRAMES = ("first", "same")


class RelativeBias(nnx.Module):
  """A learned bias for each offset of query and key, in frames and tokens.

  The official code of TPS looks the key up as if it were in the first frame,
  whatever frame it is in ("first"): blocks without patch shift thus own a
  table of each frame, and know absolute time. "same" takes the difference of
  the frames that query and key come from.

  Args:
    window: frames, rows and columns that the table is made for. With one
      frame the bias is the same at all times, for any number of frames.
    heads: attention heads g.
    key_frame: "first" or "same".
    std: deviation of the initial values.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    window: Size,
    heads: int,
    *,
    key_frame: str,
    std: float,
    rngs: nnx.Rngs,
  ):
    shape = (*(2 * n - 1 for n in window), heads)
    self.key_frame = key_frame
    self.table = nnx.Param(nnx.initializers.normal(std)(rngs.params(), shape))

  def check_frames(self, frames: int) -> None:
    """Checks that a clip has the frames that the table is made for.

    Raises:
      ValueError: if it has others.
    """
    made_for = (self.table.shape[0] + 1) // 2
    if 1 < made_for != frames:
      raise ValueError(
        f"the position bias is made for {made_for} frames of tokens, but the "
        f"clip has {frames}; set bias_frames={frames} and convert given "
        "weights again (vidjax.weights.convert), or change the number of frames"
      )

  def __call__(self, places: Places) -> Float[jax.Array, "t g n n"]:
    """Returns the bias of tokens at given places; t is 1 if none differs."""
    first = places._replace(frame=places.frame[:1])
    keys = first if self.key_frame == "first" else places
    return relative_bias(self.table[...], places, keys)


class WindowBlock(Block):
  """A block whose attention stays inside (shifted) windows.

  Liu et al. 2021, section 3.2, as the code does it: norm, zero padding to
  whole windows, cyclic roll, windows, attention, and all of it back.

  Args:
    shape: channels, heads, norm epsilon, initial values, stage and place; odd
      blocks of a stage shift their windows by half.
    temporal: the plug, which sees each window as a grid.
    window: frames, rows and columns of a window.
    bias: the relative position bias.
    **options: of `Block`.
  """

  def __init__(
    self,
    shape: BlockShape,
    temporal: Temporal,
    *,
    window: Size,
    bias: RelativeBias,
    **options: Any,
  ):
    super().__init__(shape, temporal, **options)
    self.window = window
    t, h, w = window
    self.shift = (t // 2, h // 2, w // 2) if shape.place % 2 else (0, 0, 0)
    self.bias = bias

  def attend(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Returns what attention in windows adds to the residual stream."""
    windows = self.cut(x, grid)
    window, shift, whole = self._fit(x.shape[1], grid)
    places = self._places(window, whole[0])
    y = self.attention(
      windows,
      self.temporal,
      self.window_grid(x.shape[1], grid),
      train=train,
      rngs=rngs,
      bias=self.bias(places),
      mask=window_mask(whole, window, shift) if any(shift) else None,
    )
    return self.join(y, x.shape[1], grid)

  def cut(self, x: Tokens, grid: Grid) -> Float[jax.Array, "b2 t2 n2 c"]:
    """Returns the tokens of each window, which is a grid of its own."""
    window, shift, whole = self._fit(x.shape[1], grid)
    video = rearrange(x, "b t (h w) c -> b t h w c", h=grid.height)
    extra = [(0, n - m) for n, m in zip(whole, video.shape[1:4], strict=True)]
    video = jnp.pad(video, [(0, 0), *extra, (0, 0)])
    if any(shift):
      video = jnp.roll(video, [-d for d in shift], (1, 2, 3))
    return cut_windows(video, window)

  def join(
    self, y: Float[jax.Array, "b2 t2 n2 c"], frames: int, grid: Grid
  ) -> Tokens:
    """Takes the tokens of the windows back to their places in each frame."""
    window, shift, whole = self._fit(frames, grid)
    video = join_windows(y, window, whole)
    if any(shift):
      video = jnp.roll(video, shift, (1, 2, 3))
    video = video[:, :frames, : grid.height, : grid.width]
    return rearrange(video, "b t h w c -> b t (h w) c")

  def window_grid(self, frames: int, grid: Grid) -> Grid:
    """Returns how the tokens of a window of one frame lie."""
    window, _, _ = self._fit(frames, grid)
    return Grid(0, *window[1:])

  def _fit(self, frames: int, grid: Grid) -> tuple[Size, Size, Size]:
    """Window, shift, and size in whole windows, of frames of this grid."""
    size = (frames, grid.height, grid.width)
    window, shift = fit_window(size, self.window, self.shift)
    return window, shift, padded_size(size, window)

  def _places(self, window: Size, frames: int) -> Places:
    frame, row, column = np.indices(window).reshape(3, -1)
    if self.window[0] > 1:
      return Places(frame[None], row, column)
    self.bias.check_frames(frames)
    sources = self.temporal.source_frames(frames, Grid(0, *window[1:]))
    return Places(sources, row, column)
