"""How the golden cases of X-ViT are run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import nnx
from ml_collections import ConfigDict

from vidjax.data.geometry import eval_crops, multiscale, resize, short_side
from vidjax.data.sampling import SAMPLERS
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge
from vidjax.tools.golden import (
  Case,
  Result,
  gradient_errors,
  largest_error,
  load_case,
  logit_scale,
  read_case,
  relative_error,
)
from vidjax.train.losses import cross_entropy
from vidjax.train.optim import make_optimizer
from vidjax.train.schedule import learning_rate

# The released recipes: epochs, base rate, rate at step 0, warm-up epochs.
SCHEDULES = {
  "k400": (30, 0.03, 0.01, 5),
  "k600": (30, 0.03, 0.01, 5),
  "ssv2": (35, 0.03, 0.003, 5),
}
# Biases of the classifier have no weight decay.
NO_DECAY = (r"^head/(norm|fc\d?)/bias$",)


def build(official: Mapping) -> ViT:
  """Returns the abstract model of a case."""
  mixes = official["mix"] != "none"
  head = {"kind": "average"}
  if official["head"] != "avg":
    head = {
      "kind": "temporal_attention",
      "heads": official["ta_heads"] or official["heads"],
      "layers": official["ta_layers"],
      "mlp_dim": official.get("ta_mlp_dim"),
    }
  return nnx.eval_shape(
    lambda: ViT(
      official["num_classes"],
      image_size=official["img"] if official["native_grid"] else 224,
      patch_size=official["patch"],
      dim=official["dim"],
      depth=official["depth"],
      heads=official["heads"],
      temporal={
        "op": "mixing",
        "mix": official["mix"],
        "shift_div": official["shift_div"],
        "segment": official["num_segments"],
        "blocks": official["locations"],
      }
      if mixes
      else {"op": "none"},
      temporal_positions=official["temp_len"],
      head=head,
      dropout_rate=official.get("dropout", 0.5),
      rngs=nnx.Rngs(0),
    )
  )


def run_model(case: Case) -> Result:
  """Logits, loss and gradients of one model with its stored weights."""
  loaded = load_case(case, build(case.official))
  video = rearrange(case.arrays["input"], "b c t h w -> b t h w c")
  labels = jnp.asarray(case.arrays["labels"], jnp.int32)

  def loss_and_logits(params, video):
    logits = merge(loaded.definition, params, loaded.stats)(video)
    return cross_entropy(logits, labels, 0.3).mean(), logits

  differentiate = jax.value_and_grad(
    loss_and_logits, argnums=(0, 1), has_aux=True
  )
  (loss, logits), (gradients, video_gradient) = jax.jit(differentiate)(
    loaded.params, jnp.asarray(video)
  )
  ours = loaded.export(gradients)
  ours["input"] = rearrange(
    np.asarray(video_gradient), "b t h w c -> b c t h w"
  )
  errors = [loaded.round_trip, *gradient_errors(case, ours)]
  errors.append(relative_error(np.asarray(loss), case.arrays["loss"]))
  stored = case.arrays["logits"]
  return Result(
    largest_error(np.asarray(logits), stored), logit_scale(stored), max(errors)
  )


def run_sgd(case: Case) -> Result:
  """Three optimiser steps from another case's weights.

  The error of the losses stands as that of the logits, the error of the final
  weights, relative to each weight's largest entry, as that of the gradients.
  """
  start = read_case(case.path.with_name("tiny_ta_div8.npz"))
  loaded = load_case(start, build(start.official))
  params = loaded.params
  video = rearrange(start.arrays["input"], "b c t h w -> b t h w c")
  labels = jnp.asarray(start.arrays["labels"], jnp.int32)
  rates = jnp.asarray(case.arrays["lrs"])
  optimizer = make_optimizer(
    ConfigDict(
      {
        "name": "sgd",
        "momentum": case.official["momentum"],
        "nesterov": True,
        "weight_decay": case.official["weight_decay"],
        "no_decay": NO_DECAY,
        "lr_multipliers": (),
      }
    ),
    lambda step: rates[step],
    params,
  )

  @jax.jit
  def step(params, opt_state, video):
    def loss(params):
      logits = merge(loaded.definition, params, loaded.stats)(video)
      return cross_entropy(logits, labels).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  opt_state, losses = optimizer.init(params), []
  for _ in rates:
    params, opt_state, value = step(params, opt_state, video)
    losses.append(float(value))
  stored = case.arrays["losses"]
  after = case.under("after3/")
  errors = [
    relative_error(value, after[name])
    for name, value in loaded.export(params).items()
  ]
  return Result(
    largest_error(np.asarray(losses), stored), logit_scale(stored), max(errors)
  )


def run_misc(case: Case) -> Result:
  """Schedules, losses, frame indices and crops; exact but for rounding."""
  checks = (_schedules, _losses, _dense, _segments, _multiscale, _crops)
  return Result(max(check(case.arrays) for check in checks))


def _schedules(stored: Mapping[str, Any]) -> float:
  errors = []
  for name, (epochs, base, first, warmup) in SCHEDULES.items():
    config = ConfigDict(
      {
        "name": "cosine",
        "base_lr": base,
        "warmup_lr": first,
        "warmup_epochs": warmup,
        "final_lr": 0.0,
      }
    )
    # With one step an epoch a fractional step is a fractional epoch.
    rate = learning_rate(config, total_steps=epochs, steps_per_epoch=1)
    ours = np.asarray(jax.vmap(rate)(stored[f"lr/{name}/epoch"]))
    errors.append(largest_error(ours, stored[f"lr/{name}/value"]))
  return max(errors)


def _losses(stored: Mapping[str, Any]) -> float:
  logits = jnp.asarray(stored["loss/logits"])
  first = jnp.asarray(stored["loss/ya"], jnp.int32)
  second = jnp.asarray(stored["loss/yb"], jnp.int32)
  mixed = (first, second, jnp.full(first.shape, 0.7))
  ours = {
    "smooth0.3": cross_entropy(logits, first, 0.3),
    "ce": cross_entropy(logits, first),
    "mixup_lam0.7_smooth0.3": cross_entropy(logits, mixed, 0.3),
  }
  return max(
    largest_error(np.asarray(loss.mean()), stored[f"loss/{name}"])
    for name, loss in ours.items()
  )


def _dense(stored: Mapping[str, Any]) -> float:
  errors = []
  for n, frames, stride, clips, clip, *indices in stored["kinetics_test_index"]:
    ours = SAMPLERS["dense"].eval(
      int(n),
      frames=int(frames),
      stride=int(stride),
      clip=int(clip),
      clips=int(clips),
    )
    errors.append(largest_error(ours, np.asarray(indices[:frames])))
  return max(errors)


def _segments(stored: Mapping[str, Any]) -> float:
  errors = []
  for n, frames, kind, *indices in stored["ssv2_index"]:
    clip = int(kind) % 3  # kind 3 is the validation clip: the middle, too
    ours = SAMPLERS["segments"].eval(
      int(n), frames=int(frames), stride=1, clip=clip, clips=3
    )
    errors.append(largest_error(ours, np.asarray(indices[:frames])))
  return max(errors)


def _multiscale(stored: Mapping[str, Any]) -> float:
  rng = np.random.default_rng(0)
  crops = (
    multiscale(rng, 256, 340, size=224)
    for _ in range(12_000)  # each of the 114 boxes about a hundred times
  )
  ours = {(c.width, c.height, c.left, c.top) for c in crops}
  theirs = set(map(tuple, stored["multiscale_crop_340x256"].tolist()))
  return 0.0 if ours == theirs else float("inf")


def _crops(stored: Mapping[str, Any]) -> float:
  errors = []
  for shape in ("wide", "tall", "square"):
    video = rearrange(stored[f"spatial/{shape}/in"], "c t h w -> t h w c")
    size = stored[f"spatial/{shape}/crop0"].shape[-1]
    height, width = short_side(video.shape[1], video.shape[2], size)
    boxes = eval_crops(video.shape[1], video.shape[2], size=size, crops=3)
    frames = np.stack([resize(frame, height, width) for frame in video])
    for number, box in enumerate(boxes):
      ours = rearrange(box.cut(frames), "t h w c -> c t h w")
      errors.append(
        largest_error(ours, stored[f"spatial/{shape}/crop{number}"])
      )
  return max(errors)


KINDS = {"xvit": run_model, "sgd3": run_sgd, "misc": run_misc}
