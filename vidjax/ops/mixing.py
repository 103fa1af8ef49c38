"""Space-time mixing attention's one operation (X-ViT, Bulat et al. 2021).

Part of every key and value comes from the same token of neighbouring frames
(Eq. 9); attention then stays inside the frame, so time costs no multiply-add.
"""

import jax
from einops import rearrange
from jaxtyping import Float

from vidjax.ops.channel_shift import shift_channels


def mixing_offsets(window: int, boundary_only: bool = False) -> tuple[int, ...]:
  """Frame offsets in channel order: +1, -1, ..., +window, -window.

  Args:
    window: the temporal half-window t_w of the paper, in frames.
    boundary_only: keep only the two outermost frames.

  Raises:
    ValueError: if the window is negative.
  """
  if window < 0:
    raise ValueError(
      f"the mixing window is {window} frames; it must be 0 or more"
    )
  distances = range(1, window + 1)
  if boundary_only:
    distances = distances[-1:]
  return tuple(sign * d for d in distances for sign in (1, -1))


def mix_frames(
  x: Float[jax.Array, "b t n c"],
  *,
  shift_div: int = 8,
  window: int = 1,
  boundary_only: bool = False,
  segment: int | None = None,
  heads: int | None = None,
) -> Float[jax.Array, "b t n c"]:
  """Mixes the channels of each token with those of nearby frames (Eq. 9).

  Each offset of `mixing_offsets` owns `floor(2 c / (shift_div * offsets))`
  consecutive channels, so a fraction `2 / shift_div` of them moves whatever
  the window; the rest stays. A frame outside the segment gives exact zeros.

  Args:
    x: keys, values or tokens, channels head-major.
    shift_div: D of the official code: 8, 4, 2 move 25, 50, 100 %.
    window: temporal half-window t_w; 0 leaves x as it is.
    boundary_only: only the frames at exactly +t_w and -t_w.
    segment: frames that may exchange information; None is the whole clip.
    heads: None splits the whole channel axis, as the official code does, so
      that most heads see a single frame; a number of heads splits inside each
      head, as Eq. 9 is written.

  Raises:
    ValueError: if the frames do not divide into segments, or a size is out of
      range.
  """
  offsets = mixing_offsets(window, boundary_only)
  if not offsets:
    return x
  if shift_div < 2:
    raise ValueError(
      f"shift_div is {shift_div}, but no more than all channels can move: "
      "use 2 (100 %) or more"
    )
  frames = x.shape[1]
  segment = check_segment(frames, segment)
  shape = x.shape
  if heads is not None:
    x = rearrange(x, "b t n (g d) -> b t n g d", g=heads)
  width = 2 * x.shape[-1] // (shift_div * len(offsets))
  return shift_channels(x, offsets, width, segment=segment).reshape(shape)


def check_segment(frames: int, segment: int | None) -> int:
  """Returns the frames of a segment, or says why they do not fit the clip.

  Raises:
    ValueError: if `frames` is not a multiple of `segment`.
  """
  segment = frames if segment is None else segment
  if segment < 1 or frames % segment:
    raise ValueError(
      f"a clip of {frames} frames does not divide into segments of {segment}; "
      "change the number of frames, or set segment=None for the whole clip"
    )
  return segment
