"""A window block and its parts in float64, loops over windows and heads.

From the equations of Swin (2021), Video Swin (2022) and TPS (2022). It reads
the weights of the module under test; what the block does is told to it again.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from tests import oracles
from vidjax.nn.windows import WindowBlock

EPS = 1e-5


@dataclasses.dataclass
class Recipe:
  """What a block does.

  `pattern`: rows of offsets in frames. `channels`: the border of TPS's channel
  shift, which takes an eighth of each head from one frame ago, another from
  one ahead.
  """

  heads: int
  window: tuple[int, int, int]
  shifted: bool
  pattern: Sequence[Sequence[int]] | None = None
  shift_back: bool = True
  shifted_bias: bool = True
  channels: str | None = None
  key_frame: str = "first"


def block(module: WindowBlock, video: np.ndarray, recipe: Recipe) -> np.ndarray:
  """x += attention(norm(x)); x += mlp(norm(x)) on (b, t, h, w, c)."""
  x = oracles.array(video)
  normed = oracles.layer_norm(module.norm1, x, EPS)
  x = x + attend_in_windows(module, normed, recipe)
  return x + oracles.mlp(module.mlp, oracles.layer_norm(module.norm2, x, EPS))


def shift_channels(x: np.ndarray, heads: int, border: str) -> np.ndarray:
  """Frame by frame and channel by channel."""
  y = x.copy()
  frames, channels = x.shape[1], x.shape[-1]
  width = channels // heads
  fold = width // 8
  for t, c in itertools.product(range(frames), range(channels)):
    part = (c % width) // fold if fold else 2
    if part > 1:
      continue
    source = t - 1 if part == 0 else t + 1
    if 0 <= source < frames:
      y[:, t, ..., c] = x[:, source, ..., c]
    elif border == "zero":
      y[:, t, ..., c] = 0
  return y


def attend_in_windows(
  module: WindowBlock, video: np.ndarray, recipe: Recipe
) -> np.ndarray:
  """What attention adds: pad, roll, windows, attend, and all of it back."""
  size = video.shape[1:4]
  window = [min(w, n) for w, n in zip(recipe.window, size, strict=True)]
  roll = [
    w // 2 if recipe.shifted and n > w else 0
    for w, n in zip(recipe.window, size, strict=True)
  ]
  whole = [math.ceil(n / w) * w for n, w in zip(size, window, strict=True)]
  x = np.zeros((len(video), *whole, video.shape[-1]))
  x[:, : size[0], : size[1], : size[2]] = video
  if recipe.channels:
    x = shift_channels(x, recipe.heads, recipe.channels)
  result = np.full(x.shape, np.nan)
  counts = [n // w for n, w in zip(whole, window, strict=True)]
  for place in itertools.product(*map(range, counts)):
    members = _members(place, window, recipe, frames=whole[0])
    rolled = members + roll  # where the tokens are in the padded map
    at = tuple(rolled.T % np.array(whole)[:, None])
    bias = _bias(module, place, window, recipe, members, frames=whole[0])
    apart = _apart(rolled >= whole, recipe)
    for clip in range(len(x)):
      q, k, v = oracles.project(module.attention, x[clip][at])
      y = _attend(q, k, v, bias + apart)
      y = oracles.linear(module.attention.proj, y)
      if recipe.pattern and not recipe.shift_back:
        own = (np.full(len(y), place[0]), *at[1:])
        result[clip][own] = y
      else:
        result[clip][at] = y
  assert not np.isnan(result).any()  # each token is in one window
  return result[:, : size[0], : size[1], : size[2]]


def _members(place, window, recipe, frames):
  """Frame, row and column of the tokens of a window in the rolled map."""
  result = []
  for s, p, q in np.ndindex(*window):
    frame = place[0] * window[0] + s
    if recipe.pattern:
      frame = (frame - _offset(recipe.pattern, p, q)) % frames
    result.append((frame, place[1] * window[1] + p, place[2] * window[2] + q))
  return np.array(result)


def _offset(pattern, row, column):
  return pattern[row % len(pattern)][column % len(pattern[0])]


def _bias(module, place, window, recipe, members, frames):
  """Of each head, query and key: the table's entry of their difference."""
  table = oracles.array(module.bias.table)
  middle = [(n - 1) // 2 for n in table.shape[:3]]
  tokens = list(np.ndindex(*window))
  n = len(tokens)
  result = np.zeros((recipe.heads, n, n))
  for (i, a), (j, b) in itertools.product(enumerate(tokens), repeat=2):
    query, key = members[i][0], members[j][0]
    if recipe.pattern and not recipe.shifted_bias:
      query = key = place[0]
    if recipe.key_frame == "first" and window[0] == 1:
      key = 0
      if recipe.pattern and recipe.shifted_bias:
        key = -_offset(recipe.pattern, *b[1:]) % frames
    dt = query - key if len(table) > 1 else 0
    dy, dx = a[1] - b[1], a[2] - b[2]
    result[:, i, j] = table[middle[0] + dt, middle[1] + dy, middle[2] + dx]
  return result


def _apart(wrapped, recipe):
  """-100 where exactly one of two tokens came round the end of an axis."""
  if recipe.pattern or recipe.window[0] == 1:
    wrapped = wrapped[:, 1:]  # frames are not rolled
  n = len(wrapped)
  result = np.zeros((n, n))
  for i, j in itertools.product(range(n), repeat=2):
    if (wrapped[i] != wrapped[j]).any():
      result[i, j] = -100
  return result


def _attend(q, k, v, added):
  heads = len(added)
  width = q.shape[-1] // heads
  y = np.zeros(q.shape)
  for head in range(heads):
    own = slice(head * width, (head + 1) * width)
    logits = q[:, own] @ k[:, own].T / math.sqrt(width) + added[head]
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    y[:, own] = weights / weights.sum(axis=1, keepdims=True) @ v[:, own]
  return y


def merge(module, video: np.ndarray) -> np.ndarray:
  """Patch merging: (row, column) offsets (0,0), (1,0), (0,1), (1,1)."""
  b, t, h, w, c = video.shape
  x = np.zeros((b, t, h + h % 2, w + w % 2, c))
  x[:, :, :h, :w] = video
  parts = [
    x[:, :, row::2, column::2]
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))
  ]
  joined = oracles.layer_norm(module.norm, np.concatenate(parts, axis=-1), EPS)
  return joined @ oracles.array(module.reduction.kernel)
