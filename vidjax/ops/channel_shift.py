"""Channel shift: some channels of a frame come from its neighbours.

TSM (Lin et al. 2019, section 3) and, on the class token only, TokShift (Zhang
et al. 2021); space-time mixing (X-ViT) applies the same move to keys and
values, and TPS (Xiang et al. 2022) to the channels of every head.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from vidjax.checks import one_of
from vidjax.ops import halo

BORDERS = ("zero", "keep")


def shift_channels(
  x: Float[jax.Array, "b t *rest c"],
  offsets: Sequence[int],
  width: int,
  *,
  border: str = "zero",
  segment: int | None = None,
) -> Float[jax.Array, "b t *rest c"]:
  """Takes the i-th group of `width` channels from frame `t + offsets[i]`.

  The channels behind the last group stay; nothing wraps around. Of frames that
  are split over devices those groups alone cross a border, `|offsets[i]|`
  frames of each.

  Args:
    x: any float array with frames on axis 1 and channels last.
    offsets: signed frame distances, one for each group of channels.
    width: channels of a group; `len(offsets) * width` must not exceed `c`.
    border: what stands for a frame outside the clip: "zero" (TSM), or "keep",
      the token's own channels (TPS, Xiang et al. 2022).
    segment: frames that may exchange channels, a divisor of t, each a clip of
      its own; None is all of them.

  Raises:
    ValueError: if the groups do not fit in the channels, or the border is
      unknown.
  """
  one_of("border", border, BORDERS)
  frames, channels = x.shape[1], x.shape[-1]
  moved = len(offsets) * width
  if width < 0 or moved > channels:
    raise ValueError(
      f"{len(offsets)} groups of {width} channels do not fit in {channels} "
      "channels; use a larger divisor"
    )
  if width == 0:
    return x
  segment = segment or frames
  local = frames // halo.frame_shards(frames)

  def shift(x: jax.Array) -> jax.Array:
    inner = min(segment, x.shape[1])
    clips = x.reshape(-1, inner, *x.shape[2:])
    shards = max(segment // x.shape[1], 1)
    return _shift(clips, offsets, width, border, shards).reshape(x.shape)

  if segment % local and local % segment:
    return shift(x)  # borders of shards and of segments are in no order
  return halo.over_frames(shift, x)


def _shift(
  x: jax.Array, offsets: Sequence[int], width: int, border: str, shards: int
) -> jax.Array:
  """The shift of clips, or of a shard of clips that `shards` of them hold."""
  frames, channels = x.shape[1], x.shape[-1]
  # A sum of disjoint zero-padded pieces, which is exact, and not a
  # concatenation: XLA fuses it into whatever reads the result, so that the
  # shifted array never exists (measured by benchmarks/mixing.py).
  result = _placed(x, len(offsets) * width, channels, (0, 0))
  for group, offset in enumerate(offsets):
    first, last = group * width, (group + 1) * width
    inside = max(frames - abs(offset), 0)
    if inside:
      # Negative padding cuts frames off.
      result += _placed(x, first, last, (-offset, offset))
    place = (inside, 0) if offset > 0 else (0, inside)
    others = _from_outside(x[..., first:last], offset, border, shards)
    if others is not None:
      result += _padded(others, place, (first, channels - last))
  return result


def _from_outside(
  x: jax.Array, offset: int, border: str, shards: int
) -> jax.Array | None:
  """What the frames get whose source is not in x; None for zeros."""
  frames = x.shape[1]
  count = min(abs(offset), frames)
  if count == 0:
    return None
  start = frames - count if offset > 0 else 0
  own = x[:, start : start + count]
  if shards == 1:
    return own if border == "keep" else None
  others = halo.frames_from(x, start + offset, count, segment=shards)
  if border == "zero":
    return others
  ends = halo.outside(x, offset, segment=shards)[:, start : start + count]
  return jnp.where(ends, own, others)


def _placed(
  x: jax.Array, first: int, last: int, frames: tuple[int, int]
) -> jax.Array:
  """Channels first to last of x, zeros in the others, frames padded."""
  return _padded(x[..., first:last], frames, (first, x.shape[-1] - last))


def _padded(
  x: jax.Array, frames: tuple[int, int], channels: tuple[int, int]
) -> jax.Array:
  """X among zeros: so many frames and channels before and behind it."""
  padding = [(0, 0, 0)] * x.ndim
  padding[1] = (*frames, 0)
  padding[-1] = (*channels, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), padding)
