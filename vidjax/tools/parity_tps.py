"""How the golden cases of TPS are run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from vidjax.models.swin import PatchMerging, Swin
from vidjax.nn.attention import Attention
from vidjax.nn.channel_shift import ChannelShift
from vidjax.nn.functional import merge, split
from vidjax.nn.init import vit_init
from vidjax.nn.patch_shift import PatchShift
from vidjax.nn.temporal import BlockShape, Grid, Temporal
from vidjax.ops.patch_shift import mosaic, shift_patches, source_frames
from vidjax.ops.position_bias import Places, relative_bias
from vidjax.ops.windows import (
  cut_windows,
  fit_window,
  window_mask,
)
from vidjax.tools.golden import (
  Case,
  Result,
  gradient_errors,
  largest_error,
  load_case,
  logit_scale,
  relative_error,
)
from vidjax.train.losses import cross_entropy
from vidjax.weights.entries import entries, values
from vidjax.weights.swin import inflate
from vidjax.weights.tps import position_index
from vidjax.weights.transforms import bias_table

WINDOW = (1, 7, 7)
# The official code's names of the schedules.
VARIANTS = {
  "patch_only": "patch_only",
  "channel_only": "channel_only",
  "space_only": "none",
  "all_patch": "all_patch",
}


def build(official: Mapping, schedule: str = "pst") -> Swin:
  """Returns the abstract model of a case."""
  return nnx.eval_shape(
    lambda: Swin(
      official["num_classes"],
      patch_size=official["patch_size"],
      dim=official["embed_dim"],
      depths=official["depths"],
      heads=official["num_heads"],
      window=official["window_size"],
      mlp_ratio=official["mlp_ratio"],
      qkv_bias=official["qkv_bias"],
      patch_norm=official["patch_norm"],
      temporal={"op": "patch_shift", "schedule": schedule},
      bias_frames=official["tokens"],
      rngs=nnx.Rngs(0),
    )
  )


def run_model(case: Case) -> Result:
  """Logits, loss and gradients of one model with its stored weights."""
  loaded = load_case(case, build(case.official))
  video = jnp.asarray(rearrange(case.arrays["input"], "b c t h w -> b t h w c"))
  classes = case.official["num_classes"]
  labels = jnp.arange(len(video), dtype=jnp.int32) % classes

  def loss_and_logits(params):
    logits = merge(loaded.definition, params, loaded.stats)(video)
    penalty = 0.05 * (logits**2).mean()
    return cross_entropy(logits, labels).mean() + penalty, logits

  differentiate = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))
  (loss, logits), gradients = differentiate(loaded.params)
  errors = [loaded.round_trip]
  errors += gradient_errors(case, loaded.export(gradients))
  if "loss" in case.arrays:
    errors.append(relative_error(np.asarray(loss)[None], case.arrays["loss"]))
  stored = case.arrays["logits"]
  logit_errors = [largest_error(np.asarray(logits), stored)]
  for name, value in case.under("variant/").items():
    schedule = VARIANTS[name.removesuffix("/logits")]
    variant = split(build(case.official, schedule))[0]
    ours = jax.jit(merge(variant, loaded.params, loaded.stats))(video)
    logit_errors.append(largest_error(np.asarray(ours), value))
  return Result(max(logit_errors), logit_scale(stored), max(errors))


def run_ops(case: Case) -> Result:
  """Shifts, bias indices, masks, windows, merging (exactly) and attention."""
  checks = (_patches, _channels, _bias, _masks, _windows, _merging)
  exact = max(check(case.arrays) for check in checks)
  attention = _attention(case.under("attn/"))
  return Result(attention if exact == 0 else float("inf"))


def run_inflate(case: Case) -> Result:
  """Image weights to video weights, with windows of 7 and of 12."""
  errors = []
  for name in ("w7", "w12"):
    stored = case.under(f"{name}/out/")
    images = entries(case.under(f"{name}/in/"))
    ours = values(inflate(images, patch_frames=2, window=(16, 7, 7)))
    errors += [largest_error(ours[key], value) for key, value in stored.items()]
  return Result(max(errors))


def _patches(stored: Mapping[str, Any]) -> float:
  offsets = mosaic("c9", 7, 7)
  errors = []
  for name, value in stored.items():
    if not (name.startswith("patch_shift/T") and name.endswith("/in")):
      continue
    # (frames of all windows, heads, tokens, channels)
    tokens = jnp.asarray(rearrange(value, "t g n d -> 1 t n (g d)"), float)
    for result, sign in (("out", 1), ("out_inv", -1)):
      ours = shift_patches(tokens, sign * offsets)
      theirs = stored[name.removesuffix("in") + result]
      theirs = rearrange(theirs, "t g n d -> 1 t n (g d)")
      errors.append(largest_error(np.asarray(ours), theirs))
  return max(errors)


def _channels(stored: Mapping[str, Any]) -> float:
  errors = []
  for name, value in stored.items():
    if not (name.startswith("channel_shift/") and name.endswith("/in")):
      continue
    _, heads, tokens, width = value.shape
    sizes = {"t": 1 if "/T1/" in name else 4, "w": 2}
    block = BlockShape(heads * width, heads, 1e-5, vit_init(0.02))
    plug = ChannelShift(block, offsets=(-1, 1), split="heads", border="keep")
    layout = "(b t w) g n d -> (b w) t n (g d)"
    x = jnp.asarray(rearrange(value, layout, **sizes), float)
    ours = plug.tokens(x, Grid(0, 1, tokens))
    theirs = rearrange(stored[name.removesuffix("in") + "out"], layout, **sizes)
    errors.append(largest_error(np.asarray(ours), theirs))
  return max(errors)


def _places(frames: np.ndarray) -> Places:
  _, row, column = np.indices(WINDOW).reshape(3, -1)
  return Places(frames, row, column)


def _bias(stored: Mapping[str, Any]) -> float:
  table = jnp.arange(31.0 * 13 * 13).reshape(31, 13, 13, 1)
  errors = []
  for name, offsets in (
    ("psm", mosaic("c9", 7, 7)),
    ("tsm_and_space", np.zeros(49, int)),
  ):
    frames = source_frames(16, offsets)
    ours = relative_bias(table, _places(frames), _places(frames[:1]))
    index = position_index(frames, frames[:1], (16, 7, 7))
    theirs = stored[f"rel_index/{name}"]
    errors += [
      largest_error(np.asarray(ours)[:, 0], theirs),
      largest_error(index, theirs),
    ]
  return max(errors)


def _masks(stored: Mapping[str, Any]) -> float:
  errors = []
  for name, value in stored.items():
    if not name.startswith("mask/"):
      continue
    size, shift = name.removeprefix("mask/").split("_s")
    frames, height, width = (int(n) for n in size.split("x"))
    shifts = (int(shift[0]), int(shift[1]), int(shift[2]))
    ours = window_mask((frames, height, width), WINDOW, shifts)[:, 0]
    # All frames have the same; the official code repeats it for each.
    errors.append(largest_error(np.tile(ours, (frames, 1, 1)), value))
  return max(errors)


def _windows(stored: Mapping[str, Any]) -> float:
  # (clips, frames, rows, columns, channels); theirs orders windows by clip,
  # frame and place, ours by clip, place and frame.
  video = stored["window/in"]
  ours = cut_windows(jnp.asarray(video, float), WINDOW)
  ours = rearrange(ours, "(b w) t n c -> (b t w) n c", b=len(video))
  errors = [largest_error(np.asarray(ours), stored["window/out"])]
  for row in stored["window_size/size_ws_shift"]:
    t, h, w, *expected = row.tolist()
    if min(h, w) < WINDOW[1]:
      continue  # the official code cannot run such a map; ours refuses it
    window, shift = fit_window((t, h, w), WINDOW, (0, 3, 3))
    errors.append(0.0 if [*window, *shift] == expected else float("inf"))
  return max(errors)


def _merging(stored: Mapping[str, Any]) -> float:
  x = jnp.asarray(stored["merge/in"], float)
  ours = PatchMerging.gather(x)
  return largest_error(np.asarray(ours), stored["merge/out"])


def _attention(stored: Mapping[str, Any]) -> float:
  heads, dim = 2, stored["in"].shape[-1]
  windows, frames = 4, 16
  model = nnx.eval_shape(
    lambda: Attention(
      dim, heads, init=vit_init(0.02), dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
  )
  definition, _, stats = split(model)
  params = {
    name: {
      "kernel": jnp.asarray(stored[f"w/{name}.weight"].T),
      "bias": jnp.asarray(stored[f"w/{name}.bias"]),
    }
    for name in ("qkv", "proj")
  }
  attention = merge(definition, params, stats)
  table = bias_table(7).forward(stored["w/relative_position_bias_table"])
  layout = "(t w) n c -> w t n c"
  x = jnp.asarray(rearrange(stored["in"], layout, w=windows))
  block = BlockShape(dim, heads, 1e-5, vit_init(0.02))
  plugs: dict[str, Temporal] = {
    "psm": PatchShift(pattern="c9", shift_back=True, shifted_bias=True),
    "tsm": ChannelShift(block, offsets=(-1, 1), split="heads", border="keep"),
  }
  masks = {
    "out": None,
    "out_mask": window_mask((frames, 14, 14), WINDOW, (0, 3, 3)),
  }
  grid = Grid(0, 7, 7)
  errors = []
  for name, plug in plugs.items():
    places = _places(plug.source_frames(frames, grid))
    first = places._replace(frame=places.frame[:1])
    bias = relative_bias(jnp.asarray(table), places, first)
    for result, mask in masks.items():
      ours = attention(
        x, plug, grid, train=False, rngs=None, bias=bias, mask=mask
      )
      theirs = rearrange(stored[f"{name}/{result}"], layout, w=windows)
      errors.append(largest_error(np.asarray(ours), theirs))
  return max(errors)


KINDS = {"tps": run_model, "ops": run_ops, "inflate": run_inflate}
