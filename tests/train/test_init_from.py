"""New runs that start from other weights; several devices in one child."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import vidjax
from configs.xvit_motion import get_config
from tests import on_devices, oracles
from vidjax.data.motion import write_motion_clips
from vidjax.models.registry import create_model, registered
from vidjax.nn.functional import merge, split
from vidjax.train import loop
from vidjax.train.checkpoint import CheckpointError, Checkpoints
from vidjax.train.init_from import start_from
from vidjax.train.restore import load_run
from vidjax.train.run import build
from vidjax.train.sharding import make_mesh
from vidjax.train.state import TrainState
from vidjax.weights.convert import official_state
from vidjax.weights.files import WeightsFileError
from vidjax.weights.info import PretrainedError
from vidjax.weights.keys import WeightsError, flat

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"stem_width": 4, "dim": 16, "depths": (1, 2, 1), "heads": 2}
HEAD = {"head/fc2/kernel", "head/fc2/bias"}


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def page(source="", fsdp=1):
  config = get_config("smoke")
  config.init_from = str(source)
  config.data.frames = 4
  config.train.ema_decay = 0.9
  config.mesh.fsdp = fsdp
  return config


class Fresh:
  """A run without a source, its state at step 0, and starts from sources."""

  def __init__(self, definition, mesh, init):
    self.definition, self.mesh, self.init = definition, mesh, init
    self.state = init(jax.random.key(7))

  def model(self, params=None, stats=None):
    params = self.state.params if params is None else params
    stats = self.state.stats if stats is None else stats
    return merge(self.definition, params, stats)

  def start(self, source):
    init = start_from(
      str(source),
      self.init,
      lambda key: (self.state.params, self.state.stats),
      self.definition,
      self.mesh,
      "eval/top1",
    )
    return init(jax.random.key(0))


def configured(fsdp=1):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", oracles.jit)
    run = build(page(fsdp=fsdp), total_steps=10, steps_per_epoch=5)
  return Fresh(run.definition, run.mesh, run.init)


def untrained(name, **options):
  """A model's state without an optimiser and a moving average."""
  model = oracles.build(create_model, name, **options)
  definition, params, stats = split(model)
  mesh = make_mesh()
  state = TrainState(jnp.zeros((), jnp.int32), params, stats, {}, None)
  placed = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
  return Fresh(definition, mesh, lambda key: placed)


@pytest.fixture(scope="module")
def fresh():
  return configured()


@pytest.fixture(scope="module")
def fresh_of_five(fresh):
  options = registered(fresh.model()).overrides
  return untrained("xvit_motion", **options | {"num_classes": 5})


@pytest.fixture(scope="module")
def first(fresh):
  """A state whose parameters are not initial ones, nor their average."""
  rng = np.random.default_rng(0)

  def moved(leaf):
    if leaf.dtype != np.float32:
      return leaf
    return leaf + rng.standard_normal(leaf.shape).astype(np.float32)

  return jax.tree.map(moved, fresh.state)


@pytest.fixture(scope="module")
def second(first):
  return jax.tree.map(lambda x: x + x, first)


@pytest.fixture(scope="module")
def workdir(first, second, tmp_path_factory):
  """A work directory whose best checkpoint is not its newest."""
  path = tmp_path_factory.mktemp("other")
  with checkpoints(path) as saved:
    saved.save(1, first, {"eval/top1": 0.9})
    saved.save(2, second, {"eval/top1": 0.1})
  return path


@pytest.fixture(scope="module")
def folder(fresh, first, tmp_path_factory):
  model = fresh.model(first.params, first.stats)
  path = tmp_path_factory.mktemp("pretrained") / "tiny"
  return vidjax.save_pretrained(model, path)


def batch(seed):
  rng = np.random.default_rng(seed)
  return {
    "video": rng.integers(0, 256, (8, 4, 32, 32, 3)).astype(np.uint8),
    "label": rng.integers(0, 12, 8).astype(np.int32),
    "erase": np.zeros((8, 4), np.int32),
    "weight": np.ones(8, np.float32),
  }


def checkpoints(path):
  return Checkpoints(path / "checkpoints", keep=3, best_metric="eval/top1")


def equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def assert_new_but_for_weights(state, plain):
  equal(state.opt_state, plain.opt_state)
  assert int(state.step) == 0
  assert jax.tree.structure(state) == jax.tree.structure(plain)
  assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
    lambda x: x.sharding, plain
  )


def assert_new_head(state, plain, source):
  """Only the classifier has the values that the run itself draws."""
  assert state.ema is None
  for path, value in flat(state.params).items():
    wanted = plain.params if path in HEAD else source
    np.testing.assert_array_equal(value, flat(wanted)[path], err_msg=path)


def test_a_pretrained_folder(fresh, first, folder, caplog):
  with caplog.at_level("INFO", logger="absl"):
    state = fresh.start(folder)
  equal(state.params, first.params)
  equal(state.ema, first.params)
  assert_new_but_for_weights(state, fresh.state)
  count = len(jax.tree.leaves(first.params))
  assert f"a new run starts from {folder}; one that continues" in caplog.text
  assert f"from {folder}: {count} of {count} arrays filled" in caplog.text


def test_a_configured_run_trains_from_there(first, folder):
  """The step donates all that the state holds."""
  run = build(page(folder), total_steps=10, steps_per_epoch=5)
  state = run.init(jax.random.key(0))
  equal(state.params, first.params)
  for step in range(2):
    state, metrics = run.train_step(state, batch(step))
    assert np.isfinite(metrics["loss"])
  assert int(state.step) == 2
  same = jax.tree.map(np.array_equal, first.params, state.params)
  assert not any(jax.tree.leaves(same))


def test_another_number_of_classes(fresh_of_five, first, folder, caplog):
  with caplog.at_level("INFO", logger="absl"):
    state = fresh_of_five.start(folder)
  assert "the classifier is new: head/fc2/bias (5,), not (12,)" in caplog.text
  assert_new_head(state, fresh_of_five.state, first.params)


def test_running_statistics(tmp_path):
  laps = untrained("laps_visformer_motion", image_size=32, **SMALL)
  stats = jax.tree.map(lambda x: x + 0.5, laps.state.stats)
  params = jax.tree.map(lambda x: x - 0.5, laps.state.params)
  vidjax.save_pretrained(laps.model(params, stats), tmp_path / "a")
  state = laps.start(tmp_path / "a")
  equal(state.stats, stats)
  equal(state.params, params)


def test_an_official_file(fresh, fresh_of_five, first, tmp_path, caplog):
  model = fresh.model(first.params, first.stats)
  official = official_state(model)
  path = tmp_path / "official.pth"
  save_file({k: np.ascontiguousarray(x) for k, x in official.items()}, path)
  equal(fresh.start(path).params, first.params)
  with caplog.at_level("INFO", logger="absl"):
    state = fresh_of_five.start(path)
  assert f"starting from {path}: X-ViT" in caplog.text
  assert "head/fc2/kernel" in caplog.text
  assert_new_head(state, fresh_of_five.state, first.params)


def test_the_best_checkpoint_of_a_run(fresh, first, workdir, caplog):
  """Its moving average, as it was evaluated."""
  with caplog.at_level("INFO", logger="absl"):
    state = fresh.start(workdir)
  equal(state.params, first.ema)
  equal(state.ema, first.ema)
  assert_new_but_for_weights(state, fresh.state)
  name = f"{workdir / 'checkpoints' / '1'}, the moving average: "
  assert f"starting from {name}" in caplog.text
  equal(fresh.start(workdir / "checkpoints").params, first.ema)


def test_one_checkpoint_of_a_run(fresh_of_five, second, workdir):
  state = fresh_of_five.start(workdir / "checkpoints" / "2")
  assert_new_head(state, fresh_of_five.state, second.ema)


def test_a_run_without_average_or_metrics(fresh_of_five, tmp_path):
  other = jax.tree.map(lambda x: x + x, fresh_of_five.state)
  with checkpoints(tmp_path) as saved:
    saved.save(4, other)
  equal(fresh_of_five.start(tmp_path).params, other.params)


def test_sources_that_do_not_fit(fresh, folder, workdir, tmp_path):
  wide = nnx.eval_shape(lambda: create_model("xvit_motion", num_classes=12))
  definition, *trees = split(wide)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), trees)
  for source, words in (
    (folder, f"the weights of {folder} do not fit"),
    (workdir, "checkpoints/1, the moving average do not fit"),
  ):
    init = start_from(
      str(source),
      fresh.init,
      lambda _: zeros,
      definition,
      fresh.mesh,
      "eval/top1",
    )
    with pytest.raises(WeightsError, match=words) as error:
      init(jax.random.key(0))
    assert "norm/scale is (24,), but the model has (96,)" in str(error.value)
  (tmp_path / "page.pth").write_text("<html>")
  for source, kind, words in (
    ("no/such/place", PretrainedError, "no folder no/such/place"),
    (tmp_path, PretrainedError, r"without config\.json and model"),
    (tmp_path / "page.pth", WeightsFileError, "is a web page"),
  ):
    with pytest.raises(kind, match=words):
      fresh.start(source)


# After the first failed read orbax closes its event loop, and the other reads,
# of damaged files too, then find it closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint(fresh_of_five, tmp_path):
  with checkpoints(tmp_path) as saved:
    saved.save(1, fresh_of_five.state)
  step = tmp_path / "checkpoints" / "1"
  for file in (step / "state").rglob("*"):
    if file.is_file() and file.name != "_METADATA":
      file.write_bytes(file.read_bytes()[:10])
  with pytest.raises(CheckpointError, match="the checkpoint of step 1 is dama"):
    fresh_of_five.start(tmp_path)
  (step / "state" / "_METADATA").write_text("{")
  with pytest.raises(CheckpointError, match="there is no checkpoint of step 1"):
    fresh_of_five.start(step)


def on_four_devices(*sources):
  """Prints how a state that is spread over devices starts."""
  fresh = configured(fsdp=2)
  for source in sources:
    state = fresh.start(source)
    kernel = state.params["blocks"]["0"]["attention"]["qkv"]["kernel"]
    found = {
      "placed": jax.tree.map(lambda x: x.sharding, state)
      == jax.tree.map(lambda x: x.sharding, fresh.state),
      "rows": len(kernel.addressable_shards[0].data),
      "sums": [float(abs(x).sum()) for x in jax.tree.leaves(state.params)],
    }
    print(json.dumps(found))


@pytest.mark.slow
def test_states_that_are_spread_over_devices(
  first, workdir, folder, compile_cache
):
  sources = [str(workdir), str(folder)]
  code = f"from {__name__} import on_four_devices as f; f(*{sources})"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=on_devices.environment(compile_cache, 4),
    capture_output=True,
    text=True,
    check=False,
    timeout=200,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  lines = done.stdout.splitlines()[-2:]
  for line, tree in zip(lines, (first.ema, first.params), strict=True):
    found = json.loads(line)
    assert found["placed"]
    assert found["rows"] == 12  # of 24 channels
    sums = [float(abs(x).sum()) for x in jax.tree.leaves(tree)]
    np.testing.assert_allclose(found["sums"], sums, rtol=1e-5)


@pytest.mark.slow
def test_a_run_that_continues_has_its_own_weights(folder, tmp_path, caplog):
  clips = write_motion_clips(
    tmp_path / "clips", train_clips=24, val_clips=12, size=40
  )
  config = page(folder)
  config.data.root = str(clips)
  config.motion.update({"train_clips": 24, "size": 40})
  with caplog.at_level("INFO", logger="absl"):
    assert loop.train(config, tmp_path / "run")["steps"] == 2
  assert f"starting from {folder}" in caplog.text
  caplog.clear()
  config.init_from = "no/such/place"
  config.train.steps = 3
  with caplog.at_level("INFO", logger="absl"):
    assert loop.train(config, tmp_path / "run")["steps"] == 3
  assert "continuing from the checkpoint of step 2" in caplog.text
  assert "a new run starts from no/such/place; one that con" in caplog.text
  assert "starting from" not in caplog.text


def test_the_model_of_a_run(first, workdir):
  (workdir / "config.json").write_text(json.dumps(page().to_dict()))
  model, config, name = load_run(workdir)
  _, params, _ = split(model)
  equal(params, first.ema)  # of the best checkpoint, not of the newest
  assert registered(model).name == config.model.name == "xvit_motion"
  assert name == f"{workdir.absolute()}/checkpoints/1, the moving average"


def test_a_folder_that_is_no_run(tmp_path):
  with pytest.raises(ValueError, match="is not the work directory of a run"):
    load_run(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(page().to_dict()))
  with pytest.raises(CheckpointError, match="has no checkpoint; train first"):
    load_run(tmp_path)
