"""Windows of a video's tokens, and which tokens may see each other in them.

Shifted-window attention (Swin, Liu et al. 2021, section 3.2) in space, and in
space and time (Video Swin, Liu et al. 2022): cyclic roll, cut, attend, join,
roll back. After the roll a window at the border holds tokens of opposite ends
of the frame, which the mask keeps apart.
"""

import functools

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float

Size = tuple[int, int, int]

MASKED = -100.0  # added to the logits of the official code; not -infinity


def fit_window(size: Size, window: Size, shift: Size) -> tuple[Size, Size]:
  """Returns window and shift for a map: no shift where one window fills it.

  Args:
    size: frames, rows and columns of the map.
    window: frames, rows and columns of a window.
    shift: how far windows are shifted along each axis.

  Raises:
    ValueError: if the map has fewer rows or columns than the window.
  """
  if size[1] < window[1] or size[2] < window[2]:
    raise ValueError(
      f"a map of {size[1]} x {size[2]} tokens is smaller than the window of "
      f"{window[1]} x {window[2]}; use larger frames, fewer stages or a "
      "smaller window"
    )
  fitted = tuple(min(s, w) for s, w in zip(size, window, strict=True))
  shifts = tuple(
    0 if s <= w else d for s, w, d in zip(size, window, shift, strict=True)
  )
  return fitted, shifts  # pyright: ignore[reportReturnType]  # length is 3


def padded_size(size: Size, window: Size) -> Size:
  """Returns the size rounded up to whole windows."""
  t, h, w = (-(-s // n) * n for s, n in zip(size, window, strict=True))
  return t, h, w


def cut_windows(
  x: Float[jax.Array, "b t h w c"], window: Size
) -> Float[jax.Array, "b2 t2 n c"]:
  """Cuts a map into windows.

  Windows of different places join the batch, `(b y x)`; those of different
  times stay an axis, `t / window[0]`; the n tokens of a window are ordered by
  frame, row and column.
  """
  s, p, q = window
  return rearrange(
    x, "b (t s) (y p) (x q) c -> (b y x) t (s p q) c", s=s, p=p, q=q
  )


def join_windows(
  x: Float[jax.Array, "b2 t2 n c"], window: Size, size: Size
) -> Float[jax.Array, "b t h w c"]:
  """Puts windows back; the inverse of `cut_windows` for a map of `size`."""
  s, p, q = window
  y, columns = size[1] // p, size[2] // q
  return rearrange(
    x,
    "(b y x) t (s p q) c -> b (t s) (y p) (x q) c",
    s=s,
    p=p,
    q=q,
    y=y,
    x=columns,
  )


@functools.lru_cache(maxsize=64)
def window_mask(
  size: Size, window: Size, shift: Size
) -> Float[np.ndarray, "w t2 n n"]:
  """Returns what is added to the logits of rolled windows: 0 or -100.

  Along each axis the rolled map falls into the part before the last window,
  the last window up to the seam, and what was rolled round; two tokens see
  each other if they are of the same part along every axis.

  Args:
    size: of the map, in whole windows.
    window: of each window.
    shift: the roll along each axis; 0 leaves an axis in one part.

  Returns:
    By window of the frame, window in time, query and key; a single window in
    time stands for all of them if they are not shifted in time.
  """
  if not shift[0]:
    size = (window[0], *size[1:])
  parts = [
    np.zeros(n, int)
    if d == 0
    else (np.arange(n) >= n - w).astype(int) + (np.arange(n) >= n - d)
    for n, w, d in zip(size, window, shift, strict=True)
  ]
  label = parts[0][:, None, None] * 9 + parts[1][:, None] * 3 + parts[2]
  s, p, q = window
  label = rearrange(
    label, "(t s) (y p) (x q) -> (y x) t (s p q)", s=s, p=p, q=q
  )
  differ = label[..., :, None] != label[..., None, :]
  return np.where(differ, MASKED, 0.0).astype(np.float32)
