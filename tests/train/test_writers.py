import io
import json
import math
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vidjax.train.writers import MetricWriter, Progress, WriterError


def writer(workdir, *, tensorboard=False, wandb_project="", config=None):
  return MetricWriter(
    workdir,
    tensorboard=tensorboard,
    wandb_project=wandb_project,
    config=config or {},
  )


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  assert text == "" or text.endswith("\n")
  return [json.loads(line) for line in text.splitlines()]


def test_each_write_is_one_line_at_once(tmp_path):
  with writer(tmp_path) as w:
    w.write(1, {"train/loss": jnp.float32(0.5), "train/lr": 0.25})
    assert lines(tmp_path) == [{"step": 1, "train/loss": 0.5, "train/lr": 0.25}]
    w.write(2, {"eval/videos": 12, "eval/top1": np.float64(1.0)})
  assert lines(tmp_path)[1] == {"step": 2, "eval/videos": 12, "eval/top1": 1.0}
  text = (tmp_path / "metrics.jsonl").read_text()
  assert all(line.startswith('{"step": ') for line in text.splitlines())


def test_what_is_not_finite_becomes_null(tmp_path):
  with writer(tmp_path, tensorboard=True) as w:
    w.write(1, {"a": math.nan, "b": jnp.inf, "c": -math.inf, "d": 1.5})
  assert lines(tmp_path) == [
    {"step": 1, "a": None, "b": None, "c": None, "d": 1.5}
  ]
  assert scalars(tmp_path) == [(1, "d", 1.5)]


@pytest.mark.parametrize("value", ["many", None, np.zeros(2), [1.0]])
def test_a_value_that_is_no_number_is_named(tmp_path, value):
  with (
    writer(tmp_path) as w,
    pytest.raises(TypeError, match="metric 'train/x'"),
  ):
    w.write(1, {"train/x": value})
  assert lines(tmp_path) == []


def test_a_resumed_run_has_no_line_twice(tmp_path):
  with writer(tmp_path) as w:
    for step in range(1, 7):
      w.write(step, {"train/loss": float(step)})
    w.write(4, {"eval/top1": 0.5})
  with writer(tmp_path) as w:
    w.truncate_after(4)
    for step in (5, 6):
      w.write(step, {"train/loss": 10.0 * step})
  expected = [{"step": s, "train/loss": float(s)} for s in (1, 2, 3, 4)]
  expected.append({"step": 4, "eval/top1": 0.5})
  expected += [{"step": s, "train/loss": 10.0 * s} for s in (5, 6)]
  assert lines(tmp_path) == expected
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
  "torn", ['{"step": 2, "train/lo', "{}", "\x00\x00", "7"]
)
def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "a": 1.0}\n' + torn)
  with writer(tmp_path) as w:
    w.truncate_after(9)
    w.write(2, {"a": 2.0})
  assert lines(tmp_path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}]


def test_only_process_0_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with writer(tmp_path, tensorboard=True, wandb_project="p") as w:
    w.truncate_after(0)
    w.write(1, {"a": 1.0})
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path):
  full = pathlib.Path("/dev/full")
  if not full.exists():
    pytest.skip("this system has no /dev/full")
  (tmp_path / "metrics.jsonl").symlink_to(full)
  w = writer(tmp_path)
  with pytest.raises(WriterError, match=r"metrics\.jsonl \(No space left") as e:
    w.write(1, {"a": 1.0})
  assert "free some space" in str(e.value)
  assert "\n" not in str(e.value)
  with pytest.raises(WriterError):  # the line is still in the buffer
    w.close()


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, tensorboard):
  blocked = tmp_path / ("tensorboard" if tensorboard else "work")
  blocked.write_text("a file in the place of a folder")
  workdir = tmp_path if tensorboard else blocked
  with pytest.raises(WriterError, match=f"cannot write {blocked}"):
    writer(workdir, tensorboard=tensorboard)


def events(workdir):
  """All events of all files, in the order in which TensorBoard reads them."""
  found = []
  for path in sorted((workdir / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      # A record is its length (8 bytes), a checksum (4), data, a checksum (4).
      size = int.from_bytes(data[:8], "little")
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def scalars(workdir):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events(workdir)
    for value in event.summary.value
  ]


def test_tensorboard_gets_the_same_numbers(tmp_path):
  with writer(tmp_path, tensorboard=True) as w:
    w.write(3, {"train/loss": 0.5, "train/lr": 0.25})
    assert len(scalars(tmp_path)) == 2  # there before the run ends
    w.write(4, {"eval/top1": 1.0})
  assert scalars(tmp_path) == [
    (3, "train/loss", 0.5),
    (3, "train/lr", 0.25),
    (4, "eval/top1", 1.0),
  ]


def test_tensorboard_is_told_of_a_resumed_run(tmp_path):
  for _ in range(2):
    with writer(tmp_path, tensorboard=True) as w:
      w.truncate_after(4)
      w.write(5, {"a": 1.0})
  starts = [e.step for e in events(tmp_path) if e.session_log.status]
  assert starts == [5, 5]
  assert len(list((tmp_path / "tensorboard").iterdir())) == 2


class FakeRun:
  def __init__(self):
    self.logged = []
    self.finished = False

  def log(self, values, step):
    self.logged.append((step, values))

  def finish(self):
    self.finished = True


def test_wandb_gets_the_numbers_and_continues_its_page(tmp_path, monkeypatch):
  made = []

  def init(**options):
    made.append((options, FakeRun()))
    return made[-1][1]

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
  config = {"name": "a run", "seed": 3}
  for step in (1, 2):
    with writer(tmp_path, wandb_project="videos", config=config) as w:
      w.truncate_after(step - 1)
      w.write(step, {"a": float(step)})
  (first, run), (second, _) = made
  assert first["project"] == "videos"
  assert first["name"] == "a run"
  assert first["config"] == config
  assert first["id"] == second["id"]
  assert first["resume"] == "allow"
  assert run.logged == [(1, {"a": 1.0})]
  assert run.finished


def test_wandb_that_is_not_installed_is_one_clear_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(
    ImportError, match=r"'videos'.*pip install 'vidjax\[wandb"
  ):
    writer(tmp_path, wandb_project="videos")


class Terminal(io.StringIO):
  def isatty(self):
    return True


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def progress(clock, stream, **options):
  options = {
    "total_steps": 100,
    "start_step": 0,
    "steps_per_epoch": 20,
    "clips_per_step": 8,
    "flops_per_clip": 5,
    "peak_flops": None,
    **options,
  }
  return Progress(clock=clock, stream=stream, **options)


def test_rates_are_of_the_time_since_the_last_update():
  clock = Clock()
  p = progress(clock, io.StringIO(), peak_flops=400, start_step=10)
  clock.now += 4
  assert p.update(15, {"loss": jnp.float32(2.5)}, waited=1.0) == {
    "loss": 2.5,
    "clips_per_s": 10.0,  # 5 steps of 8 clips in 4 seconds
    "data_wait": 0.25,
    "mfu": 0.125,  # 10 clips/s of 5 operations, of 400
  }
  clock.now += 2
  assert p.update(25, {}, waited=2.5) == {
    "clips_per_s": 40.0,
    "data_wait": 0.75,
    "mfu": 0.5,
  }


def test_without_a_known_peak_there_is_no_utilisation():
  clock, stream = Clock(), io.StringIO()
  p = progress(clock, stream)
  clock.now += 1
  assert "mfu" not in p.update(1, {}, waited=0.0)
  assert "MFU" not in stream.getvalue()


def test_paused_time_is_not_training_time():
  clock = Clock()
  p = progress(clock, io.StringIO())
  clock.now += 1
  for _ in range(2):
    with p.paused():
      clock.now += 50
  clock.now += 1
  assert p.update(5, {}, waited=0.5)["clips_per_s"] == 20.0
  clock.now += 4
  assert p.update(10, {}, waited=0.5)["clips_per_s"] == 10.0


def test_the_line_tells_where_the_run_is():
  clock, stream = Clock(), io.StringIO()
  p = progress(clock, stream, peak_flops=160)
  clock.now += 60  # compilation
  p.update(10, {"loss": 3.0, "lr": 0.5}, waited=0.0)
  clock.now += 20
  p.update(20, {"loss": 2.34567, "lr": 1e-4, "accuracy": 1.0}, waited=5.0)
  first, second = stream.getvalue().splitlines()
  assert first == (
    "step 10/100  epoch 0.50  ETA 0:09:00  loss 3  lr 0.5  1.3 clips/s  "
    "data wait 0%  MFU 4.2%"
  )
  # 80 steps left, of 2 seconds each.
  assert second == (
    "step 20/100  epoch 1.00  ETA 0:02:40  loss 2.346  lr 0.0001  "
    "4.0 clips/s  data wait 25%  MFU 12.5%"
  )


def eta(updates, **options):
  """The last ETA after updates of (steps, seconds, seconds of pause)."""
  clock, stream = Clock(), io.StringIO()
  p = progress(clock, stream, interval=0, **options)
  step = options.get("start_step", 0)
  for steps, seconds, pause in updates:
    step += steps
    clock.now += seconds
    p.update(step, {}, waited=0.0)
    with p.paused():
      clock.now += pause
  return stream.getvalue().splitlines()[-1].split()[5]


def test_eta_leaves_out_the_first_steps_which_compile():
  # 30 steps took 60 seconds, so the last 60 take 120.
  assert eta([(10, 60, 0), (10, 10, 0), (10, 30, 0), (10, 20, 0)]) == "0:02:00"
  # With nothing else known they count.
  assert eta([(10, 60, 0)]) == "0:09:00"


def test_eta_is_of_the_last_twenty_updates():
  slow, fast = [(10, 100, 0)] * 30, [(10, 10, 0)] * 20
  assert eta(slow + fast, total_steps=600) == "0:01:40"
  assert eta(slow + fast[:10], total_steps=500) == "0:09:10"


def test_eta_expects_pauses_as_often_as_so_far():
  # 2 seconds a step, and 100 seconds of evaluation in the first 40 steps.
  updates = [(10, 60, 0), (10, 20, 100), (10, 20, 0), (10, 20, 0)]
  assert eta(updates, total_steps=140) == "0:07:30"


def test_eta_of_a_continued_run():
  updates = [(10, 50, 0), (10, 20, 0)]
  assert eta(updates, start_step=60) == "0:00:40"


def test_outside_a_terminal_lines_come_at_intervals():
  clock, stream = Clock(), io.StringIO()
  p = progress(clock, stream, interval=10)
  for step in range(4, 101, 4):
    clock.now += 3
    p.update(step, {}, waited=0.0)
  shown = [line.split()[1] for line in stream.getvalue().splitlines()]
  assert shown == [f"{s}/100" for s in (4, 20, 36, 52, 68, 84, 100)]
  assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_the_line_is_rewritten(monkeypatch):
  monkeypatch.setenv("COLUMNS", "30")
  clock, stream = Clock(), Terminal()
  p = progress(clock, stream)
  clock.now += 1
  p.update(50, {"loss": 1.0}, waited=0.0)
  assert stream.getvalue() == "\x1b[Kstep 50/100  epoch 2.50  ETA \r"
  p.note("evaluated")
  assert stream.getvalue().endswith("\r\x1b[Kevaluated\n")
  clock.now += 1
  p.update(100, {}, waited=0.0)
  assert stream.getvalue().endswith("data wait 0%\n")


def test_only_process_0_prints(monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  clock, stream = Clock(), io.StringIO()
  p = progress(clock, stream)
  clock.now += 1
  assert p.update(1, {}, waited=0.0)["clips_per_s"] == 8.0
  p.note("evaluated")
  assert stream.getvalue() == ""
