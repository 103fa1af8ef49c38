import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import laps_motion
from configs.xvit_motion import get_config
from tests import oracles
from vidjax.models.registry import create_model
from vidjax.models.vit import ViT
from vidjax.nn.functional import split
from vidjax.train.run import build


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def page(**changes):
  config = get_config("smoke")
  config.data.frames = 4
  with config.unlocked():
    for key, value in changes.items():
      *sections, name = key.split("__")
      part = config
      for section in sections:
        part = part[section]
      part[name] = value
  return config


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"dtype": "float16"}, "dtype is 'float16'; use one of 'float32', 'bflo"),
    ({"remat": "all"}, "remat is 'all'; use one of 'none', 'block'"),
    ({"model__name": "xvit_moton"}, "no model 'xvit_moton'; did you mean xvit"),
    ({"model__width": 3}, "model 'xvit_motion' has no option 'width'; its opt"),
    (
      {"model__temporal": {"op": "magic"}},
      "temporal.op is 'magic'; use one of",
    ),
    ({"model__heads": 5}, "24 channels do not divide into 5 heads; "),
    (
      {"data__frames": 5, "model__temporal__segment": 2},
      "a clip of 5 frames does not divide into segments of 2; ",
    ),
    (
      {"data__image_size": 8},
      "frames of 8 x 8 pixels are smaller than a patch",
    ),
    ({"mesh__fsdp": 2}, "does not fit 1 devices; set mesh.data=-1"),
    ({"optimizer__name": "lion"}, "optimizer.name is 'lion'; use one of 'sgd'"),
    ({"optimizer__no_decay": ("gain",)}, "no_decay: 'gain' matches none of"),
    (
      {"optimizer__lr_multipliers": (("gain", 0.1),)},
      "lr_multipliers: 'gain' matches none of",
    ),
    (
      {"train__accumulate": 3},
      "train.accumulate=3 does not divide the batch o",
    ),
    (
      {"train__accumulate": 0},
      "train.accumulate=0 does not divide the batch o",
    ),
    (
      {"train__mixup_alpha": 0.4, "train__mixup_group": 3},
      "train.mixup_group=3 does not divide the 8 clips of a (micro-)batch; use",
    ),
    (
      {"train__mixup_alpha": 0.4, "train__accumulate": 2},
      "train.mixup_group=8 does not divide the 4 clips of a (micro-)batch; use",
    ),
    ({"train__mixup_alpha": -0.1}, "train.mixup_alpha is -0.1; use a positive"),
    ({"schedule__name": "poly"}, "schedule.name is 'poly'; use one of"),
    (
      {"schedule__warmup_epochs": 9.0},
      "warmup_epochs is 9.0, but the training",
    ),
  ],
  ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_options_that_do_not_fit_are_one_sentence(changes, sentence):
  with pytest.raises(ValueError, match=r"\w") as caught:
    build(page(**changes), total_steps=10, steps_per_epoch=5)
  assert sentence in str(caught.value)
  assert "\n" not in str(caught.value)


def test_what_is_built():
  config = page(train__ema_decay=0.9)
  run = build(config, total_steps=10, steps_per_epoch=5)
  assert set(run.mesh.shape.values()) == {1}
  options = config.model.to_dict()
  _, params, _ = split(create_model(options.pop("name"), **options))
  sizes = jax.tree.map(np.shape, params)
  assert run.parameters == sum(p.size for p in jax.tree.leaves(params))

  state = run.init(jax.random.key(3))
  assert jax.tree.map(np.shape, state.params) == sizes
  assert int(state.step) == 0
  jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
  for leaf, abstract in zip(
    jax.tree.leaves(state), jax.tree.leaves(run.abstract_state), strict=True
  ):
    assert (leaf.shape, leaf.dtype) == (abstract.shape, abstract.dtype)
    assert leaf.sharding == abstract.sharding
  kernel = state.params["blocks"]["0"]["attention"]["qkv"]["kernel"]
  again, other = (run.init(jax.random.key(seed)) for seed in (3, 4))
  jax.tree.map(np.testing.assert_array_equal, again, state)
  assert (
    other.params["blocks"]["0"]["attention"]["qkv"]["kernel"] != kernel
  ).mean() > 0.9


def test_multiply_adds_are_those_of_one_clip():
  config = page(model__temporal={"op": "none"}, model__head={"kind": "average"})
  run = build(config, total_steps=10, steps_per_epoch=5)
  frames, dim, patches, depth = 4, 24, (32 // 16) ** 2, 2
  tokens = patches + 1
  block = tokens * 12 * dim**2 + 2 * tokens**2 * dim
  frame = patches * 16 * 16 * 3 * dim + depth * block
  # The classifier works on the averaged frames.
  assert run.multiply_adds == frames * frame + dim * 12


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_frozen_parameters_neither_change_nor_count(
  factor, monkeypatch, caplog
):
  blocks = (r"^blocks/0/", r"^blocks/1/.*kernel$")
  config = page(
    train__clip_norm=1e-3,
    optimizer__lr_multipliers=((r"^blocks/", factor),),
  )
  monkeypatch.setattr(ViT, "frozen", blocks, raising=False)
  with caplog.at_level("INFO", logger="absl"):
    run = build(config, total_steps=10, steps_per_epoch=5)
  state = run.init(jax.random.key(0))
  # Copies: the state is donated.
  before = by_path(jax.tree.map(np.array, state.params))
  state, metrics = run.train_step(state, batch())
  state, _ = run.train_step(state, batch())  # the rate at step 0 is 0

  frozen = {
    path
    for path in before
    if path.startswith("blocks/0/" if factor else "blocks/")
    or (path.startswith("blocks/1/") and path.endswith("kernel"))
  }
  after, moments = by_path(state.params), by_path(state.opt_state["adam"].mu)
  for path, start in before.items():
    changed = bool((np.asarray(after[path]) != start).any())
    assert changed == (path not in frozen), path
    assert np.asarray(moments[path]).any() == (path not in frozen), path
  assert run.frozen == sum(before[path].size for path in frozen)
  assert run.parameters == sum(p.size for p in before.values())
  assert f"{run.parameters:,} parameters ({run.frozen:,} frozen)" in caplog.text

  if not factor:
    return
  monkeypatch.setattr(ViT, "frozen", (), raising=False)
  config.optimizer.lr_multipliers = ()
  free = build(config, total_steps=10, steps_per_epoch=5)
  _, all_of_them = free.train_step(free.init(jax.random.key(0)), batch())
  np.testing.assert_allclose(metrics["loss"], all_of_them["loss"], rtol=1e-6)
  assert metrics["gradient_norm"] < 0.99 * all_of_them["gradient_norm"]


def test_the_log_has_sensible_units(caplog):
  with caplog.at_level("INFO", logger="absl"):
    run = build(page(), total_steps=10, steps_per_epoch=5)
  assert 1e5 < run.multiply_adds < 1e6
  shown = f", {run.multiply_adds / 1e3:.1f} k multiply-adds a clip"
  assert shown in caplog.text


def batch():
  rng = np.random.default_rng(0)
  return {
    "video": rng.integers(0, 256, (8, 4, 32, 32, 3)).astype(np.uint8),
    "label": rng.integers(0, 12, 8).astype(np.int32),
    "erase": np.zeros((8, 4), np.int32),
    "weight": np.ones(8, np.float32),
  }


def by_path(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def test_the_state_is_donated():
  run = build(page(), total_steps=10, steps_per_epoch=5)
  state = run.init(jax.random.key(0))
  new, metrics = run.train_step(state, batch())
  assert state.step.is_deleted()
  assert int(new.step) == 1
  assert set(metrics) == {"loss", "accuracy", "gradient_norm", "lr"}


@pytest.mark.parametrize(
  ("clips", "accumulate", "groups", "warns"),
  [(8, 1, 1, False), (8, 2, 4, True), (1, 1, 1, True), (8, 4, 1, False)],
)
def test_batch_norm_over_single_clips_warns(
  clips, accumulate, groups, warns, caplog
):
  config = laps_motion.get_config("smoke")
  config.data.batch_size = clips
  config.train.update({"accumulate": accumulate, "mixup_group": 1})
  config.model.bn_groups = groups
  build(config, total_steps=10, steps_per_epoch=5)
  assert ("statistics over a single clip" in caplog.text) == warns
