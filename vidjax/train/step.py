"""The train step and the eval step, as functions to be jitted."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from vidjax.checks import Config
from vidjax.models.backbone import mean_prediction
from vidjax.nn.batch_norm import Pooled, batch_statistics
from vidjax.nn.functional import Tree, merge, split
from vidjax.nn.rngs import counted_rngs
from vidjax.ops.halo import split_frames
from vidjax.train.inputs import erase, normalise
from vidjax.train.label_heads import (
  split_labels,
  split_logits,
  split_targets,
)
from vidjax.train.losses import cross_entropy, weighted_mean
from vidjax.train.metrics import ClassificationSums, fuse_views
from vidjax.train.mixup import mixup
from vidjax.train.nonfinite import skip_nonfinite
from vidjax.train.optim import accumulate_gradients, update_ema
from vidjax.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_train_step(
  definition: Any,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  config: Config,
  trains: Tree | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns `(state, batch) -> (state, metrics)`, one optimiser step.

  A batch has `video` (uint8, b t h w 3), `label` (b; of several heads see
  `vidjax.train.label_heads`: their losses are added), `erase` (b 4) and
  `weight` (b, 0 for a clip that could not be read). All randomness comes from
  the seed and the step, so a resumed run repeats the original one.

  Args:
    definition: the model, as `vidjax.nn.functional.split` gives it.
    optimizer: whose updates are added to the parameters.
    schedule: the learning rate, only to be reported.
    config: the whole configuration.
    trains: for each parameter, whether it has a gradient (`gradient_norm` is
      of these); all by default.
  """
  options = config.train
  sizes = config.data.head_sizes

  def loss(params, stats, batch: Batch, key: jax.Array):
    mix_key, dropout_key = jax.random.split(key)
    video, targets = _prepare(config, batch, mix_key)
    if trains is not None:
      params = jax.tree.map(
        lambda p, t: p if t else jax.lax.stop_gradient(p), params, trains
      )
    model = merge(definition, params, stats)
    heads = model.head_logits(
      video, train=True, rngs=counted_rngs(dropout=dropout_key)
    )
    parts = [split_logits(logits, sizes) for logits in heads]
    wanted = split_targets(targets, sizes)
    losses = jnp.stack(
      [
        cross_entropy(logits, target, options.label_smoothing)
        for head in parts
        for logits, target in zip(head, wanted, strict=True)
      ]
    ).sum(axis=0)
    labels = split_labels(batch["label"], sizes)
    hits = [
      mean_prediction(logits).argmax(axis=-1) == label
      for logits, label in zip(zip(*parts, strict=True), labels, strict=True)
    ]
    hits = functools.reduce(jnp.logical_and, hits).astype(jnp.float32)
    _, _, stats = split(model)
    aux = {"accuracy": weighted_mean(hits, batch["weight"])}
    return weighted_mean(losses, batch["weight"]), (stats, aux)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    (value, (stats, aux)), gradients = accumulate_gradients(
      jax.value_and_grad(loss, has_aux=True),
      state.params,
      state.stats,
      batch,
      key,
      micro_batches=options.accumulate,
      partial=options.partial_groups,
    )
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    params: Any = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      ema = update_ema(ema, params, options.ema_decay)
    metrics = {
      "loss": value,
      "gradient_norm": optax.tree.norm(gradients),
      "lr": schedule(state.step),
      **aux,
    }
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      stats=stats,
      opt_state=opt_state,
      ema=ema,
    )
    if options.nonfinite == "skip":
      new_state = skip_nonfinite(state, new_state, metrics)
    return new_state, metrics

  return step


def make_statistics_step(
  definition: Any, config: Config
) -> Callable[..., Pooled]:
  """Returns `(params, stats, batch, number) -> Pooled`, of one micro-batch.

  The clips pass through the model as in a train step; `stats` gives only the
  structure. The draws depend on the seed and the number of the micro-batch.
  """

  def step(params, stats, batch: Batch, number: jax.Array) -> Pooled:
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    mix_key, dropout_key = jax.random.split(key)
    video, _ = _prepare(config, batch, mix_key)
    rngs = counted_rngs(dropout=dropout_key)
    return batch_statistics(definition, params, stats, video, rngs=rngs)

  return step


def make_eval_step(
  definition: Any, config: Config
) -> Callable[..., tuple[ClassificationSums, Metrics]]:
  """Returns `(params, stats, sums, batch) -> (sums, predictions)`.

  A batch has `video` (uint8, b v t h w 3: the v views of each video), `label`
  (b), `index` in the manifest (b), `mask` (b, 0 for padding) and `readable`
  (b, False for a video that counts as wrong).
  `predictions` repeats index, mask and readable, and adds the class of every
  row and the probabilities of all classes (mean softmax of the views). Of
  several heads (`vidjax.train.label_heads`) the first one's labels, class and
  sums count here; the probabilities are those of all.
  """
  sizes = config.data.head_sizes

  def step(params, stats, sums: ClassificationSums, batch: Batch):
    model = merge(definition, params, stats)

    def view_logits(video: jax.Array) -> jax.Array:
      return model(normalise(video, config.data.mean, config.data.std))

    # One view after the other: 30 views then need the memory of one.
    views = rearrange(batch["video"], "b v t h w c -> v b t h w c")
    logits = rearrange(jax.lax.map(view_logits, views), "v b k -> b v k")
    heads = split_logits(logits, sizes)
    scores = fuse_views(heads[0], config.eval.fusion)
    # A video that could not be read must not be right by luck.
    scores = jnp.where(batch["readable"][:, None], scores, jnp.nan)
    predictions = {
      "index": batch["index"],
      "mask": batch["mask"],
      "readable": batch["readable"],
      "prediction": scores.argmax(axis=-1),
      "scores": jnp.concatenate(
        [jax.nn.softmax(x, axis=-1).mean(axis=1) for x in heads], axis=-1
      ),
    }
    return sums.update(scores, batch["label"], batch["mask"]), predictions

  return step


def _prepare(
  config: Config, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Any]:
  """Returns what the model sees in training, and the targets."""
  data, options = config.data, config.train
  inputs = {"video": split_frames(batch["video"])}
  if data.erase:
    inputs["erase"] = batch["erase"]

  def clips(inputs: Batch) -> jax.Array:
    video = normalise(inputs["video"], data.mean, data.std)
    return erase(video, inputs["erase"]) if data.erase else video

  if not options.mixup_alpha:
    return clips(inputs), batch["label"]
  return mixup(
    key,
    inputs,
    batch["label"],
    alpha=options.mixup_alpha,
    group=options.mixup_group,
    prepare=clips,
  )
