import functools
import os
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax import traverse_util

from vidjax.train.losses import cross_entropy, weighted_mean
from vidjax.train.optim import (
  accumulate_gradients,
  clip_by_norm,
  decay_mask,
  lr_factors,
  make_optimizer,
  update_ema,
)

# --- optimisers

RATES = (0.1, 0.2, 0.05, 0.3)
PATHS = ("blocks/0/kernel", "blocks/0/bias", "head/bias")


def optimizer_config(**changes):
  values = {
    "name": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.05,
    "no_decay": (r"^head/bias$",),
    "lr_multipliers": (),
  }
  return ml_collections.ConfigDict(values | changes)


def rate(step):
  return jnp.asarray(RATES)[step]


def nest(values):
  kernel, bias, head = values
  return {
    "blocks": {"0": {"kernel": kernel, "bias": bias}},
    "head": {"bias": head},
  }


def unnest(tree):
  block = tree["blocks"]["0"]
  return block["kernel"], block["bias"], tree["head"]["bias"]


def arrays(rng, scale=1.0):
  shapes = ((3, 2), (2,), (4,))
  return [(scale * rng.normal(size=s)).astype(np.float32) for s in shapes]


def torch_sgd(param, gradients, decay, rates=RATES, *, nesterov=True):
  """torch.optim.SGD with momentum 0.9, one number at a time."""
  param, buffer = float(param), None
  for lr, gradient in zip(rates, gradients, strict=True):
    d = float(gradient) + decay * param
    buffer = d if buffer is None else 0.9 * buffer + d
    param -= lr * (d + 0.9 * buffer if nesterov else buffer)
  return param


def torch_adamw(
  param, gradients, decay, rates=RATES, b1=0.9, b2=0.999, eps=1e-8
):
  """torch.optim.AdamW, one number at a time."""
  param, m, v = float(param), 0.0, 0.0
  for t, (lr, gradient) in enumerate(zip(rates, gradients, strict=True), 1):
    param -= lr * decay * param
    m = b1 * m + (1 - b1) * float(gradient)
    v = b2 * v + (1 - b2) * float(gradient) ** 2
    denominator = v**0.5 / (1 - b2**t) ** 0.5 + eps
    param -= lr / (1 - b1**t) * m / denominator
  return param


def run(config, params, gradients, **options):
  params = nest(map(jnp.asarray, params))
  optimizer = make_optimizer(config, rate, params, **options)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  for g in gradients:
    params, state = step(params, state, nest(map(jnp.asarray, g)))
  return unnest(params), state


HEAVY_BALL = functools.partial(torch_sgd, nesterov=False)
# Changes of the configuration, rule, tolerance.
RULES = [
  ({"name": "sgd"}, torch_sgd, 2e-6),
  ({"name": "sgd", "nesterov": False}, HEAVY_BALL, 2e-6),
  # 1 - 0.999^t of AdamW's first steps loses digits in float32.
  ({"name": "adamw"}, torch_adamw, 2e-5),
]


@pytest.mark.parametrize(("changes", "oracle", "atol"), RULES)
def test_optimisers_follow_the_rule_of_pytorch(changes, oracle, atol):
  rng = np.random.default_rng(0)
  start, gradients = arrays(rng), [arrays(rng) for _ in RATES]
  result, _ = run(optimizer_config(**changes), start, gradients)
  for i, path in enumerate(PATHS):
    decay = 0.0 if path == "head/bias" else 0.05
    for at in np.ndindex(start[i].shape):
      expected = oracle(start[i][at], [g[i][at] for g in gradients], decay)
      np.testing.assert_allclose(result[i][at], expected, rtol=2e-5, atol=atol)


@pytest.mark.parametrize(("changes", "oracle", "atol"), RULES)
def test_multipliers_are_learning_rates_of_groups(changes, oracle, atol):
  rng = np.random.default_rng(0)
  start, gradients = arrays(rng), [arrays(rng) for _ in RATES]
  pairs = (("kernel", 0.1), ("^blocks", 3))
  config = optimizer_config(**changes, lr_multipliers=pairs)
  result, _ = run(config, start, gradients)
  for i, (decay, factor) in enumerate([(0.05, 0.1), (0.05, 3), (0.0, 1)]):
    rates = [factor * rate for rate in RATES]
    for at in np.ndindex(start[i].shape):
      series = [g[i][at] for g in gradients]
      expected = oracle(start[i][at], series, decay, rates)
      np.testing.assert_allclose(result[i][at], expected, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("changes", [rule[0] for rule in RULES])
@pytest.mark.parametrize("how", ["multiplier", "frozen"])
def test_what_is_frozen_keeps_every_bit(changes, how):
  rng = np.random.default_rng(0)
  start, gradients = arrays(rng), [arrays(rng) for _ in RATES]
  gradients[1][0][:] = np.nan
  config, frozen = optimizer_config(**changes), ()
  if how == "multiplier":
    config.lr_multipliers = (("kernel", 0),)
  else:
    config.lr_multipliers, frozen = ((r"^blocks/0/kernel", 2.0),), ("kernel",)
  (kernel, bias, _), _ = run(config, start, gradients, frozen=frozen)
  assert np.asarray(kernel).tobytes() == start[0].tobytes()
  (_, expected, _), _ = run(optimizer_config(**changes), start, gradients)
  np.testing.assert_array_equal(bias, expected)


def test_what_is_frozen_gathers_no_momentum_of_its_decay():
  start = arrays(np.random.default_rng(0))
  zeros = [[np.zeros_like(a) for a in start]]
  config = optimizer_config(lr_multipliers=(("kernel", 0.0),))
  _, state = run(config, start, zeros)
  kernel, bias, _ = unnest(state["momentum"].trace)
  assert not kernel.any()
  np.testing.assert_allclose(bias, 0.05 * start[1], rtol=1e-6)


def test_weights_decay_without_any_gradient_except_the_exempt():
  start = arrays(np.random.default_rng(0))
  zeros = [[np.zeros_like(a) for a in start]]
  (kernel, _, head), _ = run(optimizer_config(), start, zeros)
  # Nesterov's first step is 1 + momentum times the decayed weight.
  np.testing.assert_allclose(
    kernel, start[0] * (1 - RATES[0] * 1.9 * 0.05), rtol=1e-6
  )
  np.testing.assert_array_equal(head, start[2])


@pytest.mark.parametrize(("scale", "clipped"), [(10.0, True), (0.01, False)])
def test_the_gradient_is_clipped_before_weight_decay(scale, clipped):
  rng = np.random.default_rng(0)
  start, gradients = arrays(rng), arrays(rng, scale)
  norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
  factor = min(1, 1.5 / (norm + 1e-6))
  assert (factor < 1) == clipped
  by_hand = [(g * factor).astype(np.float32) for g in gradients]
  expected, _ = run(optimizer_config(), start, [by_hand])
  result, _ = run(optimizer_config(), start, [gradients], clip_norm=1.5)
  for a, b in zip(result, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_clipping_is_that_of_pytorch_just_below_the_limit():
  gradients = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray(0.0)}
  clip = clip_by_norm(5)
  clipped, _ = clip.update(gradients, clip.init(gradients))
  np.testing.assert_allclose(
    clipped["a"], np.asarray([3, 4]) * (5 / (5 + 1e-6)), rtol=1e-7
  )


def test_the_parts_of_the_state_have_names():
  params = nest(map(jnp.asarray, arrays(np.random.default_rng(0))))

  def parts(**changes):
    optimizer = make_optimizer(
      optimizer_config(**changes), rate, params, clip_norm=1.0
    )
    return list(optimizer.init(params))

  assert parts() == ["clip", "decay", "momentum", "rate"]
  assert parts(name="adamw") == ["clip", "adam", "decay", "rate"]
  groups = (("head", 0.1),)
  assert parts(lr_multipliers=groups)[2:] == ["momentum", "factors", "rate"]


def test_an_unknown_optimiser_is_an_error_with_the_known_ones():
  with pytest.raises(ValueError, match=r"is 'lion'; use one of 'sgd', 'adamw'"):
    make_optimizer(optimizer_config(name="lion"), rate, {})


def test_decay_mask_by_regular_expressions():
  shapes = jax.eval_shape(lambda: nest(jnp.zeros(2) for _ in PATHS))
  assert unnest(decay_mask(shapes, ("bias$",))) == (True, False, False)
  assert unnest(decay_mask(shapes, (r"^head/", "kernel"))) == (
    False,
    True,
    False,
  )
  assert unnest(decay_mask(shapes, ())) == (True, True, True)


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("^fc/bias$", "'^fc/bias$' matches none of the 3 parameters"),
    ("head/(", "'head/(' is not a regular expression"),
  ],
)
def test_an_expression_that_cannot_apply_is_named(pattern, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    decay_mask(nest((1, 2, 3)), ("bias$", pattern))


# Paths of a window transformer, with (factor, decays) of both groupings that
# the TPS recipe is known for: by the rule that mmcv applied, and as meant.
GROUPS = {
  "patch_embed/proj/kernel": ((0.1, True), (0.1, True)),
  "patch_embed/proj/bias": ((0.1, True), (0.1, True)),
  "patch_norm/scale": ((0.1, True), (0.1, False)),
  "stages/0/blocks/1/attention/qkv/kernel": ((0.1, True), (0.1, True)),
  "stages/0/blocks/1/attention/qkv/bias": ((0.1, True), (0.1, True)),
  "stages/0/blocks/1/bias/table": ((1, False), (0.1, False)),
  "stages/0/blocks/1/norm2/bias": ((0.1, True), (0.1, False)),
  "stages/0/merge/norm/scale": ((0.1, True), (0.1, False)),
  "stages/0/merge/reduction/kernel": ((0.1, True), (0.1, True)),
  "norm/scale": ((0.1, True), (0.1, False)),
  "head/fc/kernel": ((1, True), (1, True)),
  "head/fc/bias": ((1, True), (1, True)),
}
EXECUTED = {
  "lr_multipliers": ((r"/bias/table$", 1.0), (r"^(?!head/)", 0.1)),
  "no_decay": (r"/bias/table$",),
}
INTENDED = {
  "lr_multipliers": ((r"^(?!head/)", 0.1),),
  "no_decay": (r"norm\d?/(scale|bias)$", r"/bias/table$"),
}


@pytest.mark.parametrize(("which", "options"), [(0, EXECUTED), (1, INTENDED)])
def test_both_groupings_of_a_backbone_and_its_classifier(which, options):
  params = traverse_util.unflatten_dict(dict.fromkeys(GROUPS, 0), sep="/")

  def by_path(tree):
    return traverse_util.flatten_dict(tree, sep="/")

  factors = by_path(lr_factors(params, options["lr_multipliers"]))
  decays = by_path(decay_mask(params, options["no_decay"]))
  found = {path: (factors[path], decays[path]) for path in GROUPS}
  assert found == {path: both[which] for path, both in GROUPS.items()}


@pytest.mark.parametrize(
  ("pairs", "expected"),
  [
    ((), (1, 1, 1)),
    ((("bias", 0.5),), (1, 0.5, 0.5)),
    ((("bias", 0.5), ("", 2.0)), (2, 0.5, 0.5)),
    ([["^head", 0], ["bias", 0.5]], (1, 0.5, 0)),
  ],
)
def test_the_first_expression_that_is_found_counts(pairs, expected):
  assert unnest(lr_factors(nest((1, 2, 3)), pairs)) == expected


def test_frozen_goes_before_all_multipliers():
  factors = lr_factors(nest((1, 2, 3)), (("bias", 2.0),), (r"^head/",))
  assert unnest(factors) == (1, 2, 0)


@pytest.mark.parametrize(
  ("pairs", "message"),
  [
    ((("fc", 0.1),), "lr_multipliers: 'fc' matches none of the 3 parameters"),
    ((("(", 0.1),), "lr_multipliers: '(' is not a regular expression"),
    (
      (("bias", 0.1), ("^head/", 1.0)),
      "'^head/' matches only parameters that an earlier expression takes",
    ),
    ((("bias", -0.1),), "('bias', -0.1) is not a pair of a regular expression"),
    ((("bias", float("nan")),), "('bias', nan) is not a pair"),
    ((("bias", "0.1"),), "('bias', '0.1') is not a pair"),
    (("bias", 0.1), "'bias' is not a pair"),
  ],
)
def test_multipliers_that_cannot_apply_are_named(pairs, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    lr_factors(nest((1, 2, 3)), pairs)


def test_a_frozen_expression_that_matches_nothing_is_named():
  with pytest.raises(ValueError, match=r"model\.frozen: 'stages' matches none"):
    lr_factors(nest((1, 2, 3)), (), ("stages",))


def test_moving_average():
  ema = {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray(0.0)}}
  params = {"a": jnp.asarray([3.0, 2.0]), "b": {"c": jnp.asarray(8.0)}}
  ema = update_ema(ema, params, 0.75)
  np.testing.assert_allclose(ema["a"], [1.5, 2.0])
  assert float(ema["b"]["c"]) == 2


# --- gradient accumulation

B, C, K = 12, 5, 3


def problem(weight):
  """A linear classifier: parameters, statistics and a batch of 12."""
  rng = np.random.default_rng(0)
  params = {"kernel": jnp.asarray(rng.normal(size=(C, K)), jnp.float32)}
  batch = {
    "x": jnp.asarray(rng.normal(size=(B, C)), jnp.float32),
    "label": jnp.asarray(rng.integers(K, size=B)),
    "weight": jnp.asarray(weight, jnp.float32),
  }
  return params, {"seen": jnp.zeros((), jnp.int32)}, batch


def loss_and_grad(params, stats, batch, key):
  def loss(params):
    logits = batch["x"] @ params["kernel"]
    losses = cross_entropy(logits, batch["label"], 0.1)
    hits = logits.argmax(axis=-1) == batch["label"]
    stats_ = {"seen": stats["seen"] + len(batch["x"])}
    aux = {
      "accuracy": weighted_mean(hits.astype(jnp.float32), batch["weight"]),
      "draw": jax.random.uniform(key),
    }
    return weighted_mean(losses, batch["weight"]), (stats_, aux)

  return jax.value_and_grad(loss, has_aux=True)(params)


@functools.partial(jax.jit, static_argnames="micro_batches")
def accumulate(params, stats, batch, *, micro_batches):
  key = jax.random.key(0)
  return accumulate_gradients(
    loss_and_grad, params, stats, batch, key, micro_batches=micro_batches
  )


def accumulated(weight, micro_batches):
  return accumulate(*problem(weight), micro_batches=micro_batches)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
  micro_batches=st.sampled_from([2, 12]),
  weight=st.lists(st.sampled_from([0.0, 1.0]), min_size=B, max_size=B),
)
def test_accumulation_equals_the_whole_batch(micro_batches, weight):
  (loss, (stats, aux)), gradients = accumulated(weight, micro_batches)
  (loss1, (stats1, aux1)), gradients1 = accumulated(weight, 1)
  np.testing.assert_allclose(loss, loss1, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(aux["accuracy"], aux1["accuracy"], atol=1e-6)
  np.testing.assert_allclose(
    gradients["kernel"], gradients1["kernel"], rtol=1e-4, atol=1e-6
  )
  assert int(stats["seen"]) == int(stats1["seen"]) == B


def test_a_partial_group_is_divided_by_the_whole_number():
  """As PyTorch's loop steps at the end of an epoch: mean by mean."""
  micro_batches, weight = 4, np.ones(B)
  weight[[0, 1, 2]] = 0.0  # unreadable clips, in micro-batches 0, 1 and 2
  weight[3::4] = 0.0  # micro-batch 3 is missing
  params, stats, batch = problem(weight)
  (loss, (stats, aux)), gradients = accumulate_gradients(
    loss_and_grad,
    params,
    stats,
    batch,
    jax.random.key(0),
    micro_batches=micro_batches,
    partial=True,
  )
  total = np.zeros((C, K))
  losses = []
  for number in range(3):
    rows = [r for r in range(number, B, micro_batches) if weight[r]]
    x = np.asarray(batch["x"], np.float64)[rows]
    label = np.asarray(batch["label"])[rows]
    logits = x @ np.asarray(params["kernel"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = 0.9 * np.eye(K)[label] + 0.1 / K
    losses += (-(target * np.log(p)).sum(1)).tolist()
    total += x.T @ (p - target) / len(rows)
  np.testing.assert_allclose(gradients["kernel"], total / 4, atol=1e-6)
  # What is reported is the mean over the clips that there are.
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)
  assert 0 <= float(aux["accuracy"]) <= 1
  assert int(stats["seen"]) == 3 * B / 4


def test_a_whole_group_of_equal_weights_is_the_mean():
  params, stats, batch = problem(np.ones(B))
  ours, theirs = (
    accumulate_gradients(
      loss_and_grad,
      params,
      stats,
      batch,
      jax.random.key(0),
      micro_batches=4,
      partial=partial,
    )
    for partial in (True, False)
  )
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_micro_batches_have_keys_of_their_own():
  (_, (_, aux)), _ = accumulated([1.0] * B, 2)
  keys = jax.random.split(jax.random.key(0), 2)
  expected = np.mean([float(jax.random.uniform(key)) for key in keys])
  assert float(aux["draw"]) == pytest.approx(expected)


def test_micro_batches_are_strided():
  seen = []

  def record(params, stats, batch, key):
    del key
    jax.debug.callback(lambda x: seen.append(x.tolist()), batch["x"])
    return (jnp.zeros(()), (stats, {})), params

  batch = {"x": jnp.arange(6), "weight": jnp.ones(6)}
  result = accumulate_gradients(
    record, {}, {}, batch, jax.random.key(0), micro_batches=3
  )
  jax.block_until_ready(result)
  jax.effects_barrier()
  assert sorted(seen) == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("micro_batches", [5, 24, 0])
def test_a_batch_that_does_not_divide_is_an_error(micro_batches):
  message = f"train.accumulate={micro_batches} does not divide the batch of 12"
  with pytest.raises(ValueError, match=message):
    accumulated([1.0] * B, micro_batches)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vidjax.train.optim import accumulate_gradients

mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
rows = NamedSharding(mesh, P(("data", "fsdp")))
split = NamedSharding(mesh, P("fsdp"))

def loss(params, stats, batch, key):
  y = jnp.tanh(batch["x"] @ params) @ params.T
  return ((y - batch["x"]) ** 2).mean(), (stats, {})

def step(params, batch):
  (value, _), gradients = accumulate_gradients(
    jax.value_and_grad(loss, has_aux=True), params, {}, batch,
    jax.random.key(0), micro_batches=4)
  return value, params - gradients

batch = {"x": jnp.zeros((64, 48)), "weight": jnp.ones(64)}
print(jax.jit(step, in_shardings=(split, rows), out_shardings=(None, split))
  .lower(jnp.zeros((48, 96)), batch).compile().as_text())
"""


def test_micro_batches_stay_on_their_devices():
  environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
  text = subprocess.run(
    [sys.executable, "-c", ON_FOUR_DEVICES],
    env=os.environ | environment,
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
  ).stdout
  assert "HloModule" in text
  assert "all-to-all" not in text
  assert "collective-permute" not in text
  gathered = re.findall(r"= (\S+) all-gather\(", text)
  # The parameters (48, 96) are gathered, the 16 examples of a part are not.
  assert {re.sub(r"{.*", "", shape) for shape in gathered} <= {
    "f32[48,96]",
    "f32[96,48]",
  }
  # The sums of the gradients keep the parameters' sharding.
  assert "f32[24,96]" in text
