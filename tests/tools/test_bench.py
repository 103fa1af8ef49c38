import contextlib
import itertools
import json

import jax
import numpy as np
import pytest

from configs.xvit_motion import get_config
from tests import oracles
from vidjax.tools import bench

# ml_collections reads configuration files in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
PAGE = "configs/xvit_motion.py:smoke"
SMALL = ["--steps=2", "--json"]


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def subject(programs=None, waited=lambda: 0.0):
  return bench.Subject(
    config=get_config("smoke"),
    multiply_adds=10**9,
    programs=programs or {},
    waited=waited,
  )


class Clock:
  """Time that passes only where a program lets it."""

  def __init__(self, monkeypatch):
    self.now = self.waited = 0.0
    self.order = []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)

  def program(self, name, *seconds, waiting=0.0):
    seconds = iter(map(float, seconds))

    def run():
      self.order.append(name)
      self.now += next(seconds)
      self.waited += waiting

    return run


def test_programs_take_turns(monkeypatch):
  """In the other order every second time; the first turn does not count."""
  clock = Clock(monkeypatch)
  times = bench.time_in_turns(
    {
      "a": subject(
        {
          "forward": clock.program("af", 90, 1, 2),
          "train": clock.program("at", 90, 4, 5, waiting=0.5),
        },
        waited=lambda: clock.waited,
      ),
      "b": subject({"forward": clock.program("bf", 90, 7, 8)}),
    },
    2,
  )
  assert clock.order == [
    *("bf", "at", "af"),
    *("af", "at", "bf"),
    *("bf", "at", "af"),
  ]
  assert times["a", "forward"] == bench.Times([1.0, 2.0], [0.0, 0.0])
  assert times["a", "train"] == bench.Times([4.0, 5.0], [0.5, 0.5])
  assert times["b", "forward"] == bench.Times([7.0, 8.0], [0.0, 0.0])


def test_figures():
  """8 clips of 1e9 multiply-adds in half a second on two devices."""
  one = subject()
  times = bench.Times(wall=[0.4, 0.5, 0.9], waited=[0.1, 0.0, 0.17])
  found = bench.summarise(one, "train", times, "cpu", 2)
  assert found == {
    "median_ms": 500.0,
    "fastest_ms": 400.0,
    "clips_per_s": 16.0,
    "mfu": None,
    "data_wait": pytest.approx(0.15),
  }
  one.config.dtype = "bfloat16"
  for program, flops in (("train", 6e9), ("forward", 2e9)):
    found = bench.summarise(one, program, times, "TPU v5 lite", 2)
    assert found["mfu"] == pytest.approx(flops * 8 / 0.5 / (2 * 197e12))


def test_peak_memory(monkeypatch):
  class Device:
    def __init__(self, stats):
      self.memory_stats = lambda: stats

  devices = [Device({"peak_bytes_in_use": size}) for size in (5, 9, 7)]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert bench.peak_memory() == 9
  monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
  assert bench.peak_memory() is None


def test_a_random_batch_is_one_of_the_pipeline():
  config = get_config("smoke")
  batch = bench.random_batch(config)
  data = config.data
  video = (data.batch_size, data.frames, 32, 32, 3)
  assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
    "video": (video, "uint8"),
    "label": ((8,), "int32"),
    "erase": ((8, 4), "int32"),
    "weight": ((8,), "float32"),
  }
  assert batch["label"].max() < config.model.num_classes
  assert 100 < batch["video"].mean() < 155
  assert np.all(batch["weight"] == 1)


def test_the_state_moves_on():
  """From step to step, as in training, each with its own batch."""
  seen = []

  def step(state, batch):
    seen.append((state, batch))
    return state + 1, {}

  train = bench._trainer(100, step, iter("abc"))
  for _ in range(3):
    train()
  assert seen == [(100, "a"), (101, "b"), (102, "c")]


def test_batches_of_the_pipeline(monkeypatch, capsys, tmp_path):
  """The train step takes them one by one, and waits for them."""
  pages, taken = [], []

  class Batches:
    waited = 0.0

    def __next__(self):
      taken.append(len(taken))
      self.waited += 0.25
      return taken[-1]

  @contextlib.contextmanager
  def pipeline(config, run, workdir):
    pages.append((config.name, workdir))
    yield Batches()

  monkeypatch.setattr(bench, "_pipeline", pipeline)
  monkeypatch.setattr(
    bench, "_forward", lambda config, run, video: lambda: None
  )
  monkeypatch.setattr(
    bench, "_trainer", lambda state, step, batches: lambda: next(batches)
  )
  monkeypatch.setattr(
    bench.time, "perf_counter", itertools.count(0, 0.5).__next__
  )
  arguments = [f"--config={PAGE}", "--data", f"--workdir={tmp_path}", *SMALL]
  assert bench.main(arguments) == 0
  assert pages == [("X-ViT on motion clips (smoke)", tmp_path)]
  assert taken == [0, 1, 2]
  result = json.loads(capsys.readouterr().out)
  assert result["data"] == "pipeline"
  (row,) = result["configs"].values()
  assert row["train"]["data_wait"] == 0.5  # a quarter of half a second
  assert row["forward"]["data_wait"] == 0


@pytest.mark.slow
def test_two_configurations_on_real_clips(quick, capsys, tmp_path):
  arguments = [f"--config={PAGE}", f"--against={PAGE},spatial", *SMALL]
  arguments += ["--config.data.batch_size=4", "--against.dtype=bfloat16"]
  arguments += ["--data", f"--workdir={tmp_path}"]
  assert bench.main(arguments) == 0
  assert (tmp_path / "motion" / "train.jsonl").exists()
  result = json.loads(capsys.readouterr().out)
  assert (result["devices"], result["device"]) == (jax.device_count(), "cpu")
  assert (result["steps"], result["peak_bytes"]) == (2, None)
  one, other = result["configs"].values()
  assert (one["batch"], other["batch"]) == (4, 8)
  assert (one["dtype"], other["dtype"]) == ("float32", "bfloat16")
  (ratios,) = result["ratios"].values()
  for program in ("forward", "train"):
    assert one[program]["mfu"] is None
    quotient = one[program]["median_ms"] / other[program]["median_ms"]
    assert ratios[program]["medians"] == pytest.approx(quotient)
    quotient = one[program]["fastest_ms"] / other[program]["fastest_ms"]
    assert ratios[program]["minima"] == pytest.approx(quotient)
    clips = 4 / (one[program]["median_ms"] / 1e3)
    assert one[program]["clips_per_s"] == pytest.approx(clips)


@pytest.mark.slow
def test_what_is_printed(quick, capsys):
  arguments = [f"--config={PAGE}", f"--against={PAGE}", "--steps=1"]
  assert bench.main(arguments) == 0
  out = capsys.readouterr().out
  assert f"{jax.device_count()} x cpu, 1 steps" in out
  assert "X-ViT on motion clips (smoke): 8 clips a step, float32" in out
  assert "MFU not known, data wait 0%" in out
  assert "peak memory: not known" in out
  assert "train over X-ViT on motion clips (smoke) (2): " in out


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ([], "--config"),
    ([f"--config={PAGE}", "--config.modle.dim=8"], "unknown configuration key"),
    ([f"--config={PAGE}", "--config.train.accumulate=3"], "accumulate"),
    ([f"--config={PAGE}", "--steps=0"], "steps"),
    (["--config=configs/none.py"], "configs/none.py"),
  ],
)
def test_wrong_arguments(arguments, said, capsys):
  assert bench.main(arguments) == 1
  assert said in capsys.readouterr().err
