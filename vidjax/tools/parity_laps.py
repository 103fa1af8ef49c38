"""How the golden cases of LAPS are run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from ml_collections import ConfigDict

from vidjax.models.backbone import Backbone
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.channel_shift import TokenShift
from vidjax.nn.functional import Tree, merge, split
from vidjax.nn.init import vit_init
from vidjax.nn.space_time import JointAttention
from vidjax.nn.temporal import BlockShape, Grid
from vidjax.ops.leap import leap_pairs, paired_frames, unpair
from vidjax.ops.periodic_shift import periodic_shift, plain_shift
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
from vidjax.train.optim import make_optimizer

# The official code's names of the variants.
SHIFTS = {
  "base2d": "none",
  "periodic_shift": "periodic",
  "plain_shift": "plain",
  "laps": "periodic",
  "vit_laps": "periodic",
}
INPUT = "b t c h w -> b t h w c"


def build_visformer(official: Mapping) -> Visformer:
  """Returns the abstract model of a case."""
  levels = (official["stage2_levels"] or [None]) + (
    official["stage3_levels"] or [None]
  )
  return nnx.eval_shape(
    lambda: Visformer(
      official["num_classes"],
      image_size=official["image_size"],
      stem_width=official["stem"],
      dim=official["embed_dim"],
      depths=official["depth"],
      heads=official["heads"],
      temporal=_leap(official, levels),
      rngs=nnx.Rngs(0),
    )
  )


def build_vit(official: Mapping) -> ViT:
  """Returns the abstract model of a ViT-LAPS or TokShift case."""
  temporal = {"op": "token_shift", "fold_div": official["fold_div"]}
  if official["level_cycle"]:
    temporal = _leap(official, official["level_cycle"])
  return nnx.eval_shape(
    lambda: ViT(
      official["num_classes"],
      image_size=official["image_size"],
      patch_size=official["patch"],
      dim=official["embed_dim"],
      depth=official["depth"],
      heads=official["heads"],
      temporal=temporal,
      temporal_positions=0,
      head={"kind": "average", "init_std": 0.02},
      dropout_rate=0.0,
      rngs=nnx.Rngs(0),
    )
  )


def _leap(official: Mapping, levels: Sequence[int | None]) -> dict[str, Any]:
  return {
    "op": "leap",
    "levels": levels,
    "shift": SHIFTS[official["variant"]],
    "fold_div": official["fold_div"] or 4,
  }


def run_visformer(case: Case) -> Result:
  """A model with its stored weights, or its training."""
  run = _train if "lr" in case.official else _differentiate
  return run(case, build_visformer(case.official))


def run_vit(case: Case) -> Result:
  """A ViT with its stored weights."""
  return _differentiate(case, build_vit(case.official))


def _differentiate(case: Case, model: Backbone) -> Result:
  """Logits, loss and gradients in evaluation mode."""
  loaded = load_case(case, model)
  video = jnp.asarray(rearrange(case.arrays["input"], INPUT))
  coefficients = jnp.asarray(case.arrays["loss_coef"])

  def loss_and_logits(params):
    logits = merge(loaded.definition, params, loaded.stats)(video)
    return (logits * coefficients).sum(), logits

  differentiate = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))
  (loss, logits), gradients = differentiate(loaded.params)
  errors = [loaded.round_trip]
  errors += gradient_errors(case, loaded.export(gradients))
  errors.append(relative_error(np.asarray(loss), case.arrays["loss"]))
  stored = case.arrays["logits"]
  return Result(
    largest_error(np.asarray(logits), stored), logit_scale(stored), max(errors)
  )


def _train(case: Case, model: Backbone) -> Result:
  """Two optimiser steps, each from the gradients of several micro-batches.

  Losses count with the logits; the gradient, its norm, weights and running
  statistics, each relative to its largest entry, as gradients.
  """
  official = case.official
  loaded = load_case(case, model)
  params, stats = loaded.params, loaded.stats
  optimizer = make_optimizer(
    ConfigDict(
      {
        "name": "sgd",
        "momentum": official["momentum"],
        "nesterov": False,
        "weight_decay": official["weight_decay"],
        "no_decay": (),
        "lr_multipliers": (),
      }
    ),
    lambda step: jnp.float32(official["lr"]),
    params,
    clip_norm=official["clip"],
  )
  accumulate = official["accum"]

  @jax.jit
  def differentiate(params: Tree, stats: Tree, video, labels):
    def loss(params):
      model = merge(loaded.definition, params, stats)
      logits = model(video, train=True)
      losses = cross_entropy(logits, labels, official["label_smoothing"])
      return losses.mean(), (logits, split(model)[2])

    return jax.value_and_grad(loss, has_aux=True)(params)

  opt_state = optimizer.init(params)
  logit_errors, scale, errors = [], 1.0, [loaded.round_trip]
  micro_batches = list(
    zip(
      jnp.asarray(
        rearrange(case.arrays["input"], "m b t c h w -> m b t h w c")
      ),
      jnp.asarray(case.arrays["labels"], jnp.int32),
      strict=True,
    )
  )
  for step in range(len(micro_batches) // accumulate):
    total: Any = jax.tree.map(jnp.zeros_like, params)
    for number in range(step * accumulate, (step + 1) * accumulate):
      (loss, (logits, stats)), gradients = differentiate(
        params, stats, *micro_batches[number]
      )
      total = jax.tree.map(lambda t, g: t + g / accumulate, total, gradients)
      stored = case.under(f"micro{number}/")
      logit_errors += [
        largest_error(np.asarray(logits), stored["logits"]),
        largest_error(np.asarray(loss), stored["loss"]),
      ]
      scale = max(scale, logit_scale(stored["logits"]))
    if step == 0:
      errors += gradient_errors(case, loaded.export(total))
    stored = case.under(f"step{step}/")
    norm = np.asarray(optax.tree.norm(total))
    errors.append(relative_error(norm, stored["grad_norm"]))
    updates, opt_state = optimizer.update(total, opt_state, params)
    params: Any = optax.apply_updates(params, updates)
    for prefix, tree in (("p", params), ("b", stats)):
      ours = loaded.export(tree)
      errors += gradient_errors(case, ours, f"step{step}/{prefix}/")
  return Result(max(logit_errors), scale, max(errors))


def run_patterns(case: Case) -> Result:
  """Pairs, shifts and joint attention's order, exactly.

  Raises:
    ValueError: if the table of legal levels is missing.
  """
  path = case.path.with_suffix(".json")
  if not path.is_file():
    raise ValueError(
      f"{case.path} needs {path.name}, with the legal levels, beside it; "
      "copy it there"
    )
  text = path.read_text()
  checks = (
    _legality(json.loads(text)["leap"]),
    _leaps(case.arrays),
    _shifts(case.arrays),
    _joint(case.arrays),
  )
  return Result(0.0 if max(checks) == 0 else float("inf"))


def _legality(stored: Mapping[str, Any]) -> float:
  """Whether the same levels are legal, with the same pairs."""
  for name, entry in stored.items():
    frames, level = name.removeprefix("T").split("/")
    if not level.startswith("level"):
      continue  # an older numbering
    try:
      pairs = paired_frames(int(frames), int(level.removeprefix("level")))
    except ValueError:
      if entry["ok"]:
        return float("inf")
    else:
      if not entry["ok"] or pairs.tolist() != entry["pairs"]:
        return float("inf")
  return 0.0


def _leaps(stored: Mapping[str, np.ndarray]) -> float:
  errors = []
  for name, value in stored.items():
    match name.split("/"):
      case ["leap", frames, level, "pair"]:
        tokens = _tokens(stored[f"leap/{frames}/in"], frames)
        number = int(level.removeprefix("level"))
        pairs = leap_pairs(tokens, number)
        theirs = _tokens(value, f"T{tokens.shape[1] // 2}")
        errors += [
          largest_error(np.asarray(pairs), np.asarray(theirs)),
          largest_error(np.asarray(unpair(pairs, number)), np.asarray(tokens)),
        ]
        firsts, seconds = paired_frames(tokens.shape[1], number).T
        order = np.concatenate([firsts, seconds])
        index = f"leap/{frames}/{level}"
        errors += [
          largest_error(order, stored[f"{index}/two_index"]),
          largest_error(np.argsort(order), stored[f"{index}/reverse_index"]),
        ]
  return max(errors)


def _shifts(stored: Mapping[str, np.ndarray]) -> float:
  errors = []
  for name, value in stored.items():
    match name.split("/"):
      case ["shift", kind, frames, fold] if fold != "in":
        given = stored[f"shift/{kind}/{frames}/in"]
        ours = _shift(kind, given, frames, int(fold.removeprefix("fold")))
        errors.append(largest_error(np.asarray(ours), value))
  return max(errors)


def _shift(
  kind: str, given: np.ndarray, frames: str, fold_div: int
) -> np.ndarray:
  """One of the three shifts, in the layout that the official code gives it."""
  # The case "z10" is a clip of 4 frames with heads of 10 channels.
  t = len(given) if frames.startswith("z") else int(frames[1:])
  match kind:
    case "periodic":
      heads = given.shape[1]
      y = jnp.asarray(
        rearrange(given, "(b t) g n d -> b t n (g d)", t=t), jnp.float32
      )
      y = periodic_shift(y, heads, fold_div)
      y = rearrange(y, "b t n (g d) -> (b t) g n d", g=heads)
    case "plain":
      width = given.shape[-1]
      y = jnp.asarray(
        rearrange(given, "(b t) c h w -> b t (h w) c", t=t), jnp.float32
      )
      y = plain_shift(y, fold_div)
      y = rearrange(y, "b t (h w) c -> (b t) c h w", w=width)
    case _:
      y = jnp.asarray(rearrange(given, "(b t) n c -> b t n c", t=t))
      block = BlockShape(given.shape[-1], 1, 1e-6, vit_init(0.02))
      plug = TokenShift(block, fold_div=fold_div)
      grid = Grid(1, 1, given.shape[1] - 1)
      y = plug.before(y, grid, train=False, rngs=None)
      y = rearrange(y, "b t n c -> (b t) n c")
  return np.asarray(y)


def _joint(stored: Mapping[str, np.ndarray]) -> float:
  errors = []
  for name, value in stored.items():
    match name.split("/"):
      case ["joint3d", frames, "clip"]:
        tokens = _tokens(stored[f"joint3d/{frames}/in"], frames)
        clip, *_ = JointAttention().qkv(
          tokens, tokens, tokens, Grid(0, 1, tokens.shape[2])
        )
        theirs = rearrange(value, "b g n d -> b 1 n (g d)")
        errors.append(largest_error(np.asarray(clip), theirs))
  return max(errors)


def _tokens(heads: np.ndarray, frames: str) -> jax.Array:
  """Tokens of clips of "T8" frames, from those of every head."""
  t = int(frames.removeprefix("T"))
  tokens = rearrange(heads, "(b t) g n d -> b t n (g d)", t=t)
  return jnp.asarray(tokens, jnp.float32)


KINDS = {
  "visformer": run_visformer,
  "vit": run_vit,
  "tokshift": run_vit,
  "patterns": run_patterns,
}
