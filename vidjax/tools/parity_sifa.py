"""How the golden cases of SIFA are run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import DTypeLike
from ml_collections import ConfigDict

from vidjax.models.backbone import mean_prediction
from vidjax.models.resnet import Bottleneck, ResNet
from vidjax.models.swin import Swin
from vidjax.nn.functional import Tree, merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.interframe import InterFrame
from vidjax.nn.temporal import BlockShape
from vidjax.ops import bilinear
from vidjax.ops.interframe import displacements, interframe_attention
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
from vidjax.train.schedule import gradual_cosine
from vidjax.weights.entries import entries, values
from vidjax.weights.keys import KeyTable, load
from vidjax.weights.sifa import BOTTLENECK, inflate_resnet, inflate_swin

MAPS = "b c t h w -> b t h w c"


def build_net(official: Mapping, *, sifa: bool) -> ResNet:
  """Returns the abstract SIFA-Net of a case, or the baseline."""
  options: dict[str, Any] = {}
  if not sifa:
    options = {"blocks": ("B",) * 4, "temporal": {"op": "none"}}
  return nnx.eval_shape(
    lambda: ResNet(
      official["num_classes"],
      dim=official["stem"],
      depths=official["layers"],
      dropout_rate=0.0,
      dtype=jnp.float64,
      rngs=nnx.Rngs(0),
      **options,
    )
  )


def build_swin(official: Mapping) -> Swin:
  """Returns the abstract SIFA-Swin of a case."""
  window, patch = official["window_size"], official["patch_size"]
  return nnx.eval_shape(
    lambda: Swin(
      official["num_classes"],
      image_size=official["img_size"],
      patch_size=(official["early_stride"], patch, patch),
      dim=official["embed_dim"],
      depths=official["depths"],
      heads=official["num_heads"],
      window=(1, window, window),
      mlp_ratio=float(official["mlp_ratio"]),
      patch_norm=False,
      temporal={
        "op": "interframe",
        "kernel": official["K"],
        "window": window,
      },
      bias_frames=1,
      rngs=nnx.Rngs(0),
    )
  )


def run_net(case: Case) -> Result:
  """Both heads' logits, prediction, loss, gradients; one pass in training.

  In float64: a SIFA block is cubic in its input, so that a float32 rounding
  grows to what one could take for a mistake.
  """
  sifa = any(name.startswith("act/layer2.1.def_cor") for name in case.arrays)
  with jax.enable_x64(True):
    loaded = load_case(case, build_net(case.official, sifa=sifa))
    params = loaded.params
    video = _maps(case.arrays["input"], jnp.float64)
    labels = jnp.asarray(case.arrays["labels"], jnp.int32)

    def forward(params, video, train):
      model = merge(loaded.definition, params, loaded.stats)
      logits = model.head_logits(video, train=train)
      loss = sum(cross_entropy(each, labels).mean() for each in logits)
      return loss, (logits, split(model)[2])

    differentiate = jax.jit(
      jax.value_and_grad(lambda p, v: forward(p, v, False), (0, 1), True)
    )
    (loss, (logits, _)), gradients = differentiate(params, video)
    theirs = case.arrays
    logit_errors = [
      *_head_errors(logits, theirs["logits"], theirs["logits_dual"]),
      largest_error(
        np.asarray(jnp.exp(mean_prediction(logits))), theirs["prob"]
      ),
    ]
    errors = [loaded.round_trip]
    errors += _gradient_errors(case, loaded.table, *gradients)
    errors.append(relative_error(np.asarray(loss), theirs["loss"]))
    if "train/logits" in theirs:
      run = jax.jit(lambda p, v: forward(p, v, True))
      loss, (logits, stats) = run(params, video)
      stored = case.under("train/")
      logit_errors += _head_errors(
        logits, stored["logits"], stored["logits_dual"]
      )
      errors.append(relative_error(np.asarray(loss), stored["loss"]))
      errors += gradient_errors(case, loaded.export(stats), "train/new/")
  return Result(max(logit_errors), logit_scale(theirs["logits"]), max(errors))


def run_bottleneck(case: Case) -> Result:
  """One block with offsets, and its gradients."""
  official = case.official
  shape = BlockShape(official["planes"], 1, 1e-5, torch_init, stage=1, place=1)

  def make() -> Bottleneck:
    random: dict[str, Any] = {"dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    plug = InterFrame(
      shape,
      places="odd",
      window=0,
      convolve=False,
      norm=False,
      offsets="rescaled",
      kernel=official["K"],
      dilation=official["cor_dilation"],
      **random,
    )
    return Bottleneck(
      "B", official["inplanes"], shape, 1, plug, bn_groups=1, **random
    )

  with jax.enable_x64(True):
    definition, *templates = split(nnx.eval_shape(make))
    params, stats = load(BOTTLENECK, case.under("w/"), *templates)
    x = _maps(case.arrays["input"], jnp.float64)
    weights = _maps(case.arrays["ct"], jnp.float64)

    @jax.jit
    def differentiate(params, x):
      def weighted(params, x):
        y = merge(definition, params, stats)(x, train=False)
        return (y * weights).sum(), y

      return jax.value_and_grad(weighted, (0, 1), has_aux=True)(params, x)

    (_, y), gradients = differentiate(params, x)
    errors = _gradient_errors(case, BOTTLENECK, *gradients)
  theirs = rearrange(case.arrays["output"], MAPS)
  return Result(
    largest_error(np.asarray(y), theirs), logit_scale(theirs), max(errors)
  )


def run_swin(case: Case) -> Result:
  """Logits, loss and gradients of a SIFA-Swin with its stored weights."""
  loaded = load_case(case, build_swin(case.official))
  video = _maps(case.arrays["input"])
  labels = jnp.asarray(case.arrays["labels"], jnp.int32)

  @jax.jit
  def differentiate(params, video):
    def loss_and_logits(params, video):
      logits = merge(loaded.definition, params, loaded.stats)(video)
      return cross_entropy(logits, labels).mean(), logits

    differentiated = jax.value_and_grad(loss_and_logits, (0, 1), has_aux=True)
    return differentiated(params, video)

  (loss, logits), gradients = differentiate(loaded.params, video)
  errors = [loaded.round_trip]
  errors += _gradient_errors(case, loaded.table, *gradients)
  errors.append(relative_error(np.asarray(loss), case.arrays["loss"]))
  theirs = case.arrays["logits"]
  return Result(
    largest_error(np.asarray(logits), theirs), logit_scale(theirs), max(errors)
  )


def run_op(case: Case) -> Result:
  """The bare operation: products, sums, result and gradients."""
  official = case.official
  if "groups" in official:
    return _grouped(case.arrays, official["groups"])
  results = [
    _operation(case.under(f"{name}/"), options)
    for name, options in official.items()
    if isinstance(options, Mapping)
  ]
  return Result(
    max(result.logit_error / result.logit_scale for result in results),
    gradient_error=max(result.gradient_error for result in results),
  )


def _operation(stored: Mapping[str, np.ndarray], options: Mapping) -> Result:
  q, k, v = (_maps(stored[name]) for name in "qkv")
  offsets = _offsets(stored["off"])
  weight = _maps(stored["w"][None])[0]  # (frames, rows, columns, channels)
  ct = _maps(stored["ct"])
  grid = displacements(options["K"], options["dilation"])

  def by_hand(q, k, v, offsets, weight):
    """With any weight of the correlation, as the official operation has it."""
    previous = jnp.concatenate([q[:, :1], q[:, :-1]], axis=1)
    corr = _correlate(previous, k, offsets, weight, grid, 1)
    agg = _aggregate(corr, v, offsets, grid)
    y = jnp.pad(agg[:, 1:], [(0, 0), (0, 1), *[(0, 0)] * 3])
    return (y * ct).sum(), (corr, agg, y)

  def ours(q, k, v, offsets):
    y = interframe_attention(
      q,
      k,
      v,
      None if options["offset_kind"] == "zero" else offsets[:, 1:],
      kernel=options["K"],
      dilation=options["dilation"],
    )
    return (y * ct).sum(), y

  _, (corr, agg, y) = jax.jit(by_hand)(q, k, v, offsets, weight)
  wanted = {
    "corr": rearrange(corr, "b t h w 1 n -> b t h w n"),
    "agg": agg,
    "y": y,
  }
  pairs = [(rearrange(stored[name], MAPS), y) for name, y in wanted.items()]
  if options["random_weight"]:
    differentiate = jax.grad(by_hand, range(5), has_aux=True)
    gradients, _ = jax.jit(differentiate)(q, k, v, offsets, weight)
    theirs = _maps(stored["g_w"][None])[0]
    errors = [relative_error(np.asarray(gradients[4]), np.asarray(theirs))]
  else:
    differentiate = jax.grad(ours, range(4), has_aux=True)
    gradients, y = jax.jit(differentiate)(q, k, v, offsets)
    pairs.append((rearrange(stored["y"], MAPS), y))
    errors = []
  errors += [
    relative_error(np.asarray(gradient), rearrange(stored[f"g_{name}"], MAPS))
    for name, gradient in zip("qkv", gradients, strict=False)
  ]
  if options["offset_kind"] != "zero":
    theirs = np.asarray(_offsets(stored["g_off"]))
    errors.append(relative_error(np.asarray(gradients[3]), theirs))
  return Result(
    max(largest_error(np.asarray(y), theirs) for theirs, y in pairs),
    max(logit_scale(theirs) for theirs, _ in pairs),
    max(errors),
  )


def _grouped(stored: Mapping[str, np.ndarray], groups: int) -> Result:
  x, offsets = _maps(stored["x"]), _offsets(stored["off"])
  weight = _maps(stored["w"][None])[0]
  names = "b (g n) t h w -> b t h w g n"
  a, ct_corr = (
    jnp.asarray(rearrange(stored[name], names, g=groups))
    for name in ("a", "ct_corr")
  )
  ct_agg = _maps(stored["ct_agg"])
  grid = displacements(round((a.shape[-1]) ** 0.5))

  def correlate(x, offsets, weight):
    previous = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    y = _correlate(previous, x, offsets, weight, grid, groups)
    return (y * ct_corr).sum(), y

  def aggregate(x, offsets, a):
    y = _aggregate(a, x, offsets, grid)
    return (y * ct_agg).sum(), y

  gradients, corr = jax.jit(jax.grad(correlate, range(3), has_aux=True))(
    x, offsets, weight
  )
  more, agg = jax.jit(jax.grad(aggregate, range(3), has_aux=True))(
    x, offsets, a
  )
  wanted = [
    (gradients[0], _maps(stored["g_x_corr"])),
    (gradients[1], _offsets(stored["g_off_corr"])),
    (gradients[2], _maps(stored["g_w"][None])[0]),
    (more[0], _maps(stored["g_x_agg"])),
    (more[1], _offsets(stored["g_off_agg"])),
    (more[2], jnp.asarray(rearrange(stored["g_a"], names, g=groups))),
  ]
  theirs = rearrange(stored["corr"], names, g=groups)
  return Result(
    max(
      largest_error(np.asarray(corr), theirs),
      largest_error(np.asarray(agg), rearrange(stored["agg"], MAPS)),
    ),
    max(logit_scale(theirs), logit_scale(stored["agg"])),
    max(relative_error(np.asarray(y), np.asarray(z)) for y, z in wanted),
  )


def _correlate(
  query: jax.Array,
  key: jax.Array,
  offsets: jax.Array,
  weight: jax.Array,
  grid: np.ndarray,
  groups: int,
) -> jax.Array:
  """Products of weighted channels: neighbour by neighbour, which is exact."""
  t = query.shape[1]
  places = bilinear.sampling_places(
    rearrange(offsets, "b t h w n o -> (b t) h w n o"), grid
  )
  key = rearrange(key, "b t h w c -> (b t) h w c")
  products = []
  for number, each in enumerate(rearrange(weight, "t i j c -> (i j) t 1 1 c")):
    only = bilinear.Places(*(x[..., number, None] for x in places))
    weighted = rearrange(query * each, "b t h w c -> (b t) h w c")
    products.append(bilinear.correlate(weighted, key, only, groups))
  joined = jnp.concatenate(products, axis=-1)
  return rearrange(joined, "(b t) h w g n -> b t h w g n", t=t)


def _aggregate(
  weights: jax.Array, value: jax.Array, offsets: jax.Array, grid: np.ndarray
) -> jax.Array:
  t = value.shape[1]
  y = bilinear.aggregate(
    rearrange(weights, "b t h w g n -> (b t) h w g n"),
    rearrange(value, "b t h w c -> (b t) h w c"),
    bilinear.sampling_places(
      rearrange(offsets, "b t h w n o -> (b t) h w n o"), grid
    ),
  )
  return rearrange(y, "(b t) h w c -> b t h w c", t=t)


def run_transfer(case: Case) -> Result:
  """Image weights to video weights, exactly."""
  resnet = values(inflate_resnet(entries(case.under("resnet/in/"))))
  swin = values(inflate_swin(entries(case.under("swin/in/"))))
  # No model has these: the official code copies and then ignores them.
  unused = ("head.", "patch_embed.norm.", "fc.")
  errors = []
  for ours, theirs in (
    (resnet, case.under("resnet/out/")),
    (swin, case.under("swin/out/")),
  ):
    ours, theirs = (
      {k: x for k, x in state.items() if not k.startswith(unused)}
      for state in (ours, theirs)
    )
    if ours.keys() != theirs.keys():
      return Result(float("inf"))
    errors += [largest_error(ours[k], value) for k, value in theirs.items()]
  return Result(max(errors))


def run_schedule(case: Case) -> Result:
  """The learning rates of two recipes, relative to the largest."""
  recipes = {"k400": (0.04, 1), "ssv1": (0.02, 5)}  # base rate, warm-up
  per_epoch = case.official["iters_per_epoch"]
  errors = []
  for name, (base, warmup) in recipes.items():
    stored = case.arrays[name]
    rates = gradual_cosine(
      ConfigDict(
        {
          "base_lr": base,
          "warmup_epochs": warmup,
          "warmup_factor": 0.01,
          "final_lr": 1e-6,
        }
      ),
      len(stored) / per_epoch,
      per_epoch,
    )(np.arange(len(stored)))
    errors.append(relative_error(np.asarray(rates), stored))
  return Result(max(errors))


def _maps(x: np.ndarray, dtype: DTypeLike = jnp.float32) -> jax.Array:
  return jnp.asarray(rearrange(x, MAPS), dtype)


def _offsets(x: np.ndarray) -> jax.Array:
  layout = "b (n o) t h w -> b t h w n o"
  return jnp.asarray(rearrange(x, layout, o=2), jnp.float32)


def _head_errors(logits: Any, *stored: np.ndarray) -> list[float]:
  return [
    largest_error(np.asarray(ours), theirs)
    for ours, theirs in zip(logits, stored, strict=True)
  ]


def _gradient_errors(
  case: Case, table: KeyTable, params: Tree, inputs: jax.Array
) -> list[float]:
  ours = table.export(jax.device_get(params))
  back = "b t h w c -> b c t h w"
  ours["input"] = rearrange(np.asarray(inputs), back)
  return gradient_errors(case, ours)


KINDS = {
  "sifa_op": run_op,
  "sifa_bottleneck": run_bottleneck,
  "sifa_net": run_net,
  "sifa_swin": run_swin,
  "init_transfer": run_transfer,
  "lr_schedule": run_schedule,
}
