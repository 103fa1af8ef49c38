"""Leap pairs: frames that attend together, at a distance of 1, 2, 4, ...

LAPS (Zhang et al. 2022) pairs the frames of a clip; attention runs over the
tokens of both frames of a pair, which costs twice the attention inside the
frames whatever the distance. The distance, the leap, is set by a level: level 1
leaps over half of the clip, each next level half as far.

    8 frames   level 1, leap 4   (0 4) (1 5) (2 6) (3 7)
               level 2, leap 2   (0 2) (1 3) (4 6) (5 7)
               level 3, leap 1   (0 1) (2 3) (4 5) (6 7)
"""

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from vidjax.ops import halo


def legal_levels(frames: int) -> tuple[int, ...]:
  """Returns the levels at which a clip of so many frames falls into pairs."""
  return tuple(
    level
    for level in range(1, frames.bit_length())
    if frames % (2 * (frames >> level)) == 0
  )


def leap_distance(frames: int, level: int) -> int:
  """Returns the distance s of paired frames, `frames // 2**level`.

  Raises:
    ValueError: if the clip does not fall into blocks of 2 s frames.
  """
  legal = legal_levels(frames)
  if level not in legal:
    known = ", ".join(map(str, legal)) or "none: use an even number of frames"
    raise ValueError(
      f"leap level {level} cannot pair {frames} frames; the legal levels are "
      f"{known}"
    )
  return frames >> level


def paired_frames(frames: int, level: int) -> Int[np.ndarray, "p 2"]:
  """Returns the first and second frame of every pair, in `leap_pairs`' order.

  Raises:
    ValueError: if the level is not legal for so many frames.
  """
  distance = leap_distance(frames, level)
  return rearrange(np.arange(frames), "(k i s) -> (k s) i", i=2, s=distance)


def leap_pairs(
  x: Float[jax.Array, "b t n c"], level: int
) -> Float[jax.Array, "b p n2 c"]:
  """Joins the tokens of paired frames (LAPS, leap attention).

  Pair after pair by its first frame; in a pair the first frame's n tokens, then
  the second's. Blocks of 2 s frames hold s first and then s second frames, so
  this is a transposition, at the last level not even that.

  Raises:
    ValueError: if the level is not legal for t frames.
  """
  return _in_blocks("b (k i s) n c -> b (k s) (i n) c", x, x.shape[1], level)


def unpair(
  y: Float[jax.Array, "b p n2 c"], level: int
) -> Float[jax.Array, "b t n c"]:
  """Brings the tokens of `leap_pairs` back to their frames.

  Raises:
    ValueError: if the level is not legal for 2 p frames.
  """
  frames = 2 * y.shape[1]
  return _in_blocks("b (k s) (i n) c -> b (k i s) n c", y, frames, level)


def _in_blocks(how: str, x: jax.Array, frames: int, level: int) -> jax.Array:
  distance = leap_distance(frames, level)

  def rearranged(x: jax.Array) -> jax.Array:
    return rearrange(x, how, i=2, s=distance)

  local = frames // halo.frame_shards(frames)
  if local % (2 * distance):
    return rearranged(x)
  return halo.over_frames(rearranged, x)


def leaps_over_shards(frames: int, level: int) -> bool:
  """Says whether a frame's partner lies on another device, at its place there.

  That is if the frames are split over devices and the leap is a multiple of
  those of one.

  Raises:
    ValueError: if the level is not legal for so many frames.
  """
  shards = halo.frame_shards(frames)
  return shards > 1 and leap_distance(frames, level) % (frames // shards) == 0


def partners(
  x: Float[jax.Array, "b t n c"], level: int
) -> Float[jax.Array, "b t n c"]:
  """Returns the partner of every frame, where `leaps_over_shards`.

  Pairs of devices swap all of their frames.

  Raises:
    ValueError: if the level is not legal for t frames.
  """
  frames = x.shape[1]
  shards = halo.frame_shards(frames)
  hop = leap_distance(frames, level) * shards // frames
  pairs = [
    (here + hop if here // hop % 2 == 0 else here - hop, here)
    for here in range(shards)
  ]
  return halo.over_frames(lambda x: halo.swap_shards(x, pairs), x)
