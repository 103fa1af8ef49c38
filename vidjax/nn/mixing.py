"""The plug of X-ViT's space-time mixing."""

import jax.numpy as jnp
from einops import rearrange, repeat

from vidjax.checks import at_least, one_of
from vidjax.nn.temporal import BlockShape, Grid, Regrouped, Temporal, Tokens
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

  def qkv(self, q: Tokens, k: Tokens, v: Tokens, grid: Grid) -> Regrouped:
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
