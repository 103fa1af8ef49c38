import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from vidjax.train import checkpoint
from vidjax.train.checkpoint import CheckpointError, Checkpoints, DamagedError


@struct.dataclass
class State:
  """The fields of a train state."""

  step: Any
  params: Any
  stats: Any
  opt_state: Any
  ema: Any


def make_state(seed=0, *, width=4, ema=True, optimizer=None):
  optimizer = optimizer or optax.adamw(0.1)
  rng = np.random.default_rng(seed)
  params = {
    "blocks": {
      str(i): {"kernel": jnp.asarray(rng.normal(size=(8, width)), jnp.float32)}
      for i in range(2)
    },
    "head": {"bias": jnp.asarray(rng.normal(size=width), jnp.float32)},
  }
  return State(
    step=jnp.asarray(seed, jnp.int32),
    params=params,
    stats={},
    opt_state=jax.tree.map(lambda x: x + seed, optimizer.init(params)),
    ema=jax.tree.map(lambda x: 2 * x, params) if ema else None,
  )


def abstract(state):
  return jax.eval_shape(lambda: state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert x.shape == y.shape
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def opened(tmp_path):
  """Opens checkpoints in one folder as often as wanted."""

  def open_(keep=3, best="eval/top1"):
    return Checkpoints(tmp_path / "ck", keep=keep, best_metric=best)

  return open_


def steps_on_disk(checkpoints):
  return sorted(int(p.name) for p in checkpoints.directory.iterdir())


@pytest.mark.parametrize("ema", [True, False])
def test_a_train_state_comes_back_to_the_bit(opened, ema):
  state = make_state(7, ema=ema)
  with opened() as checkpoints:
    assert checkpoints.latest_step() is None
    checkpoints.save(7, state)
  with opened() as checkpoints:
    assert checkpoints.latest_step() == 7
    restored = checkpoints.restore(abstract(state))
  assert_same(restored, state)
  assert isinstance(restored, State)


def test_every_dtype_comes_back_to_the_bit(opened):
  bits = np.random.default_rng(0).integers(2**32, size=64, dtype=np.uint32)
  state = {
    "bfloat16": jnp.asarray(bits.view(jnp.bfloat16)),  # with NaN and infinities
    "float16": jnp.asarray(bits.view(np.float16)),
    "float32": jnp.asarray(bits.view(np.float32)),
    "key": jax.random.key_data(jax.random.key(3)),
    "int8": jnp.asarray(bits.view(np.int8)),
    "bool": jnp.asarray(bits % 2 == 0),
    "scalars": [jnp.asarray(-3, jnp.int32), jnp.asarray(0.1, jnp.bfloat16)],
    "a name with / and .": {"0": jnp.zeros((2, 1))},
    "nothing": (None, {}, []),
  }
  with opened() as checkpoints:
    checkpoints.save(1, state, wait=True)
    assert_same(checkpoints.restore(abstract(state), 1), state)


def test_files_do_not_depend_on_the_classes_of_the_state(opened):
  state = make_state()
  with opened() as checkpoints:
    checkpoints.save(1, state, wait=True)
    plain = {
      "step": state.step,
      "params": state.params,
      "opt_state": {
        "0": {
          name: getattr(state.opt_state[0], name)
          for name in ("count", "mu", "nu")
        }
      },
      "ema": state.ema,
    }
    assert_same(checkpoints.restore(abstract(plain)), plain)


def test_the_state_may_be_donated_while_it_is_written(opened):
  @jax.jit
  def fresh():
    return {"a": jnp.arange(2_000_000, dtype=jnp.float32)}

  step = jax.jit(lambda s: jax.tree.map(lambda x: -x - 1, s), donate_argnums=0)
  state = fresh()
  with opened() as checkpoints:
    checkpoints.save(1, state)
    for _ in range(5):
      state = step(state)
    assert_same(checkpoints.restore(abstract(state)), fresh())


def test_the_newest_and_the_best_are_kept(opened):
  scores = {1: 0.2, 2: 0.9, 3: float("nan"), 4: 0.9, 5: None, 6: 0.3, 7: 0.1}
  state = {"a": jnp.zeros(2)}
  with opened(keep=2) as checkpoints:
    for step, score in scores.items():
      checkpoints.save(
        step, state, None if score is None else {"eval/top1": score, "x": 1.0}
      )
    assert checkpoints.best_step() == 4  # the newer one of equal ones
    assert checkpoints.latest_step() == 7
    assert steps_on_disk(checkpoints) == [4, 6, 7]
  with opened(keep=2) as checkpoints:  # the scores are read from the disk
    assert checkpoints.best_step() == 4
    checkpoints.save(8, state, {"eval/top1": 0.95}, wait=True)
    assert steps_on_disk(checkpoints) == [7, 8]


def test_without_the_metric_there_is_no_best(opened):
  with opened(keep=1, best="eval/top5") as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, {"a": jnp.zeros(2)}, {"eval/top1": 1 / step})
    assert checkpoints.best_step() is None
    assert steps_on_disk(checkpoints) == [3]


def test_every_difference_is_named_in_one_error(opened):
  saved = make_state(ema=False)
  here = make_state(width=5)
  here = here.replace(
    params=here.params | {"extra": jnp.zeros(3)},
    step=jnp.zeros((), jnp.uint32),
  )
  with opened() as checkpoints:
    checkpoints.save(3, saved, wait=True)
    with pytest.raises(CheckpointError) as caught:
      checkpoints.restore(abstract(here))
  first, *lines = str(caught.value).splitlines()
  assert "the checkpoint of step 3" in first
  assert "does not fit this model and optimiser" in first
  expected = ["step: dtype int32 in the checkpoint, uint32 here"]
  expected += ["params/extra: missing in the checkpoint"]
  for tree in ("params", "opt_state/0/mu", "opt_state/0/nu"):
    expected += [
      f"{tree}/blocks/{i}/kernel: shape (8, 4) in the checkpoint, (8, 5) here"
      for i in range(2)
    ]
    expected += [f"{tree}/head/bias: shape (4,) in the checkpoint, (5,) here"]
  expected += [
    f"ema/{name}: missing in the checkpoint"
    for name in ("blocks/0/kernel", "blocks/1/kernel", "head/bias")
  ]
  assert sorted(line.strip() for line in lines) == sorted(expected)


def test_what_only_the_checkpoint_has_is_named(opened):
  with opened() as checkpoints:
    checkpoints.save(1, make_state(optimizer=optax.adamw(0.1)), wait=True)
    with pytest.raises(CheckpointError) as caught:
      checkpoints.restore(abstract(make_state(optimizer=optax.sgd(0.1))))
  assert "opt_state/0/mu/head/bias: only in the checkpoint" in str(caught.value)


def test_a_missing_step_is_an_error_with_the_present_ones(opened):
  with opened() as checkpoints:
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*: none"):
      checkpoints.restore({"a": jnp.zeros(2)})
    checkpoints.save(1, {"a": jnp.zeros(2)})
    checkpoints.save(2, {"a": jnp.zeros(2)})
    with pytest.raises(CheckpointError, match=r"of step 5 .* ones: 1, 2"):
      checkpoints.restore({"a": jnp.zeros(2)}, 5)
    with pytest.raises(CheckpointError, match="step 2 exists already"):
      checkpoints.save(2, {"a": jnp.zeros(2)})


def incomplete(name):
  """Ways in which a folder of step 2 is not a checkpoint."""

  def tmp(folder):
    folder.rename(folder.with_name("2.orbax-checkpoint-tmp"))

  def empty(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
      path.rmdir() if path.is_dir() else path.unlink()

  def remove(folder):
    (folder / "state/_METADATA").unlink()

  def cut(folder):
    path = folder / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text()[:20])

  def metrics(folder):
    (folder / "metrics/metrics").write_text("{")

  return locals()[name]


@pytest.mark.parametrize("how", ["tmp", "empty", "remove", "cut", "metrics"])
def test_a_half_written_checkpoint_is_ignored_and_replaced(opened, how):
  one, two = {"a": jnp.ones(3)}, {"a": jnp.full(3, 2.0)}
  with opened() as checkpoints:
    checkpoints.save(1, one)
    checkpoints.save(2, two, {"eval/top1": 1.0})
  incomplete(how)(checkpoints.directory / "2")
  with opened() as checkpoints:
    assert checkpoints.latest_step() == 1
    assert checkpoints.best_step() is None
    assert_same(checkpoints.restore(abstract(one)), one)
    checkpoints.save(2, two, wait=True)
    assert steps_on_disk(checkpoints) == [1, 2]
  with opened() as checkpoints:
    assert_same(checkpoints.restore(abstract(one)), two)


def damage_largest(folder, change):
  path = max(
    (p for p in folder.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  path.write_bytes(change(bytearray(path.read_bytes())))


def flip(data):
  data[len(data) // 2] ^= 1
  return data


@pytest.mark.parametrize(
  "change", [lambda data: data[: len(data) // 2], flip, lambda _: b""]
)
def test_a_damaged_checkpoint_is_an_error_with_the_remedy(opened, change):
  noise = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
  state = {"a": {"b": jnp.asarray(noise)}}
  with opened() as checkpoints:
    checkpoints.save(1, state)
    checkpoints.save(2, state)
  damage_largest(checkpoints.directory / "2", change)
  with opened() as checkpoints:
    message = r"of step 2 is damaged .*: delete .*ck/2 to continue from step 1"
    with pytest.raises(CheckpointError, match=message) as caught:
      checkpoints.restore(abstract(state))
    assert "\n" not in str(caught.value)
    assert_same(checkpoints.restore(abstract(state), 1), state)


def lose_shard(folder):
  max(
    (p for p in (folder / "state").rglob("d/*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  ).unlink()


@pytest.mark.parametrize(
  "damage",
  [
    lambda folder: damage_largest(folder, flip),
    lambda folder: damage_largest(folder, lambda data: data[:1000]),
    lose_shard,
  ],
  ids=["flip", "truncate", "missing"],
)
def test_the_newest_intact_checkpoint_is_used(opened, damage, monkeypatch):
  warnings = []
  monkeypatch.setattr(
    checkpoint.logging, "warning", lambda text, *a: warnings.append(text % a)
  )
  noise = np.random.default_rng(0).normal(size=(4, 30_000)).astype(np.float32)
  states = [{"a": jnp.asarray(x)} for x in noise]
  with opened(keep=4) as checkpoints:
    assert checkpoints.restore_newest(abstract(states[0])) == (0, None)
    for step, state in enumerate(states, 1):
      checkpoints.save(step, state, {"eval/top1": float(step)})
  for step in ("3", "4"):
    damage(checkpoints.directory / step)
  with opened(keep=4) as checkpoints:
    step, state = checkpoints.restore_newest(abstract(states[0]))
    assert step == 2
    assert_same(state, states[1])
    assert checkpoints.latest_step() == checkpoints.best_step() == 2
    checkpoints.save(3, states[2], wait=True)  # again, as the run does
  assert sorted(p.name for p in checkpoints.directory.iterdir()) == [
    *("1", "2", "3", "3.damaged", "4.damaged")
  ]
  assert len(warnings) == 2
  for step, warning in zip((4, 3), warnings, strict=True):
    assert warning.startswith(f"the checkpoint of step {step} is damaged (")
    assert f"now called {step}.damaged: continuing from an earl" in warning
  with opened(keep=4) as checkpoints:
    step, state = checkpoints.restore_newest(abstract(states[0]))
  assert step == 3
  assert_same(state, states[2])


def test_the_last_checkpoint_is_not_set_aside(opened):
  state = {"a": jnp.asarray(np.random.default_rng(0).normal(size=30_000))}
  with opened() as checkpoints:
    checkpoints.save(1, state)
  damage_largest(checkpoints.directory / "1", flip)
  with (
    opened() as checkpoints,
    pytest.raises(DamagedError, match=r"delete .* to continue from the beginn"),
  ):
    checkpoints.restore_newest(abstract(state))
  assert steps_on_disk(checkpoints) == [1]


@pytest.mark.parametrize(
  "text", ["RESOURCE_EXHAUSTED: out of memory", "a: Permission denied"]
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept(
  opened, text, monkeypatch
):
  state = {"a": jnp.zeros(2)}
  with opened() as checkpoints:
    checkpoints.save(1, state)
    checkpoints.save(2, state, wait=True)

    def fail(*_):
      raise ValueError(text)

    monkeypatch.setattr(checkpoints._checkpointer, "load", fail)
    with pytest.raises(CheckpointError, match=r"step 2 .* cannot be read"):
      checkpoints.restore_newest(abstract(state))
  assert steps_on_disk(checkpoints) == [1, 2]


def test_another_model_is_no_damage(opened):
  with opened() as checkpoints:
    checkpoints.save(1, {"a": jnp.zeros(2)})
    checkpoints.save(2, {"a": jnp.zeros(2)})
    with pytest.raises(CheckpointError, match="does not fit this model"):
      checkpoints.restore_newest(abstract({"a": jnp.zeros(3)}))
  assert steps_on_disk(checkpoints) == [1, 2]


def test_a_flipped_bit_is_found_in_its_array(opened):
  noise = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
  state = {"a": {"b": jnp.asarray(noise)}, "c": jnp.zeros(2)}
  with opened() as checkpoints:
    checkpoints.save(1, state)
  damage_largest(checkpoints.directory / "1", flip)
  with (
    opened() as checkpoints,
    pytest.raises(CheckpointError, match=r"altered arrays: a/b\)"),
  ):
    checkpoints.restore(abstract(state))


@pytest.fixture
def full_disk():
  """Lets no file grow over 100 kB."""
  former = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("wait", [True, False])
def test_a_write_that_fails_is_an_error_and_harms_no_other(opened, wait):
  noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
  small, large = {"a": jnp.zeros(2)}, {"a": jnp.asarray(noise)}
  message = (
    r"checkpoint.* could not be written to .*ck \(File too large\): free space"
  )

  def fail():
    with opened(keep=1) as checkpoints:
      checkpoints.save(1, small)
      checkpoints.save(2, large, wait=wait)

  with pytest.raises(CheckpointError, match=message):
    fail()
  with opened() as checkpoints:
    assert checkpoints.latest_step() == 1
    assert_same(checkpoints.restore(abstract(small)), small)


def test_the_error_of_the_body_is_not_hidden_by_a_failed_write(
  opened, full_disk
):
  large = {"a": jnp.asarray(np.random.default_rng(0).normal(size=100_000))}

  def fail_twice():
    with opened() as checkpoints:
      checkpoints.save(1, large)
      raise RuntimeError("the first")

  with pytest.raises(RuntimeError, match="the first"):
    fail_twice()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    CheckpointError, match=r"file/ck cannot be used \(Not a d"
  ):
    Checkpoints(tmp_path / "file/ck", keep=1, best_metric="")


def test_a_folder_that_becomes_unusable_is_named(opened):
  with opened() as checkpoints:
    checkpoints.save(1, {"a": jnp.zeros(2)}, wait=True)
    shutil.rmtree(checkpoints.directory)
    checkpoints.directory.write_text("")
    with pytest.raises(CheckpointError, match=r"of step 2 could not be writ"):
      checkpoints.save(2, {"a": jnp.zeros(2)}, wait=True)


def test_at_least_one_is_kept(tmp_path):
  with pytest.raises(ValueError, match=r"checkpoint\.keep is 0"):
    Checkpoints(tmp_path, keep=0, best_metric="")


ON_FOUR_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from vidjax.train.checkpoint import Checkpoints

mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
def leaf(shape, dtype, *axes):
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
abstract = {"w": leaf((8, 6), "float32", "fsdp"), "n": leaf((), "int32")}
with Checkpoints(sys.argv[1], keep=9, best_metric="") as checkpoints:
  state = checkpoints.restore(abstract)
  assert state["w"].sharding == abstract["w"].sharding
  assert state["w"].addressable_shards[0].data.shape == (2, 6)
  np.testing.assert_array_equal(state["w"], np.arange(48).reshape(8, 6))
  state = jax.tree.map(lambda x: x + 1, state)
  checkpoints.save(6, state)
"""


def test_a_checkpoint_fits_other_numbers_of_devices(opened):
  state = {
    "w": jnp.arange(48, dtype=jnp.float32).reshape(8, 6),
    "n": jnp.asarray(5, jnp.int32),
  }
  with opened() as checkpoints:
    checkpoints.save(5, state)
  environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
  subprocess.run(
    [sys.executable, "-c", ON_FOUR_DEVICES, str(checkpoints.directory)],
    env=os.environ | environment,
    check=True,
    timeout=120,
  )
  with opened() as checkpoints:
    restored = checkpoints.restore(abstract(state), 6)
  assert_same(restored, jax.tree.map(lambda x: x + 1, state))


KILLED = """
import os, sys
import jax.numpy as jnp
from vidjax.train.checkpoint import Checkpoints

state = {"a": jnp.arange(5_000_000, dtype=jnp.float32)}
checkpoints = Checkpoints(sys.argv[1], keep=9, best_metric="")
checkpoints.save(1, state, wait=True)
checkpoints.save(2, state)
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_the_checkpoint_before(opened, tmp_path):
  directory = tmp_path / "ck"
  subprocess.run(
    [sys.executable, "-c", KILLED, str(directory)],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    check=False,
    timeout=120,
  )
  partial = directory / "3.orbax-checkpoint-tmp"
  partial.mkdir()
  with opened() as checkpoints:
    newest = checkpoints.latest_step()
    assert newest in (1, 2)  # 2: the write was faster than the signal
    state = {"a": jax.ShapeDtypeStruct((5_000_000,), jnp.float32)}
    state = checkpoints.restore(state)
    assert float(state["a"][-1]) == 4_999_999
    assert partial.exists()  # another process might be writing it
    checkpoints.save(newest + 1, state, wait=True)
    assert not list(directory.glob("*tmp*"))


def test_metrics_are_plain_numbers_in_the_files(opened):
  with opened() as checkpoints:
    checkpoints.save(1, {"a": jnp.zeros(2)}, {"eval/top1": np.float32(0.5)})
  file = pathlib.Path(checkpoints.directory / "1/metrics/metrics")
  assert json.loads(file.read_text()) == {"eval/top1": 0.5}
