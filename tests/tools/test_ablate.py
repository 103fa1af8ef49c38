import json
import math
import pathlib
import statistics

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs.ablation_motion import ROWS, TABLES, get_config
from tests import oracles
from vidjax.models.registry import create_model
from vidjax.nn.functional import merge, split
from vidjax.tools import ablate
from vidjax.tools.ablate import Finished, finished, row_config, shown_rows
from vidjax.tools.ablation_report import (
  draw,
  intervals,
  markdown,
  wilson,
  with_intervals,
  write_report,
)

# ml_collections reads configuration files in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
PAGE = "configs/ablation_motion.py:smoke"
BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


# --- intervals


@pytest.mark.parametrize(
  ("share", "count", "low", "high"),
  [
    (0.8, 10, 0.4902, 0.9433),
    (0.0, 10, 0.0, 0.2775),
    (1.0, 10, 0.7225, 1.0),
    (0.5, 480, 0.4554, 0.5446),
  ],
)
def test_wilson(share, count, low, high):
  """The ends solve |p - share| = z sqrt(p (1 - p) / n)."""
  found = wilson(share, count)
  assert found[:2] == pytest.approx((low, high), abs=1e-4)
  assert found.kind == "Wilson"
  for p in found[:2]:
    if 0 < p < 1:
      distance = 1.959964 * math.sqrt(p * (1 - p) / count)
      assert abs(p - share) == pytest.approx(distance, abs=1e-6)


def test_t_intervals_share_a_deviation():
  """Three degrees of freedom: 2 + 3 runs of 2 rows, and a row without any."""
  runs = {"a": [0.4, 0.6], "b": [0.5, 0.5, 0.8], "c": [0.99]}
  found = intervals(runs, 480)
  deviation = math.sqrt((0.01 + 0.01 + 0.01 + 0.01 + 0.04) / 3)
  for row, values in runs.items():
    half = 3.182446 * deviation / math.sqrt(len(values))
    mean = statistics.fmean(values)
    expected = max(0, mean - half), min(1, mean + half), "t"
    assert found[row][:2] == pytest.approx(expected[:2], abs=1e-6)
    assert found[row].kind == "t"


def test_interval_of_two_runs():
  """Student's 12.706 for one degree of freedom."""
  (found,) = intervals({"a": [0.50, 0.52]}, 480).values()
  assert found.high - 0.51 == pytest.approx(12.7062 * 0.01, abs=1e-5)


def test_single_runs_have_the_interval_of_the_videos():
  found = intervals({"a": [0.5], "b": [0.75]}, 480)
  assert found == {"a": wilson(0.5, 480), "b": wilson(0.75, 480)}


# --- tables and picture


@pytest.fixture
def result():
  cost = {
    "params": 1_234_567,
    "multiply_adds": 98_700_000,
    "memory_bytes": 100 * 2**20,
    "median_ms": 90.0,
    "fastest_ms": 81.2,
  }
  rows = {
    "full": ("ViT", {"top1": {"0": 0.8, "1": 0.9}, **cost}),
    "none": ("ViT", {"top1": {"0": 0.4, "1": 0.5}, **cost}),
    "other": ("ResNet", {"top1": {"0": 0.5}, **cost}),
    "broken": ("ResNet", {"top1": {}, "failed": "ValueError: no"}),
  }
  return {
    "command": "python -m vidjax.tools.ablate",
    "device": "1 x cpu",
    "steps": 500,
    "batch_size": 16,
    "frames": 8,
    "image_size": 64,
    "seeds": [0, 1],
    "videos": 480,
    "rows": {
      name: {"model": name, "backbone": backbone, **row}
      for name, (backbone, row) in rows.items()
    },
    "tables": [
      {"title": "One", "rows": [["all of it", "full"], ["nothing", "none"]]},
      {
        "title": "Two",
        "rows": [["other", "other"], ["bad", "broken"], ["late", "later"]],
      },
    ],
  }


def test_rows_of_a_backbone_share_their_deviation(result):
  rows = with_intervals(result)["rows"]
  # Two rows of two runs 0.1 apart: s = 0.0707 with 2 degrees of freedom.
  half = 4.302653 * math.sqrt(0.005) / math.sqrt(2)
  assert rows["full"]["mean"] == pytest.approx(0.85)
  assert rows["full"]["low"] == pytest.approx(0.85 - half, abs=1e-6)
  assert rows["full"]["high"] == 1.0
  assert rows["other"]["interval"] == "Wilson"
  assert "mean" not in rows["broken"]


def test_markdown(result):
  text = markdown(with_intervals(result))
  assert (
    "500 steps of 16 clips, 8 frames of 64 pixels, seeds 0, 1, "
    "480 evaluation videos, 1 x cpu." in text
  )
  lines = text.splitlines()
  assert [x for x in lines if x.startswith("###")] == ["### One", "### Two"]
  assert (
    "| all of it | 85.0 | 63.5 to 100.0 | 2 | 1.235 | 98.7 | 81 | 100 |"
    in lines
  )
  assert (
    "| other | 50.0 | 45.5 to 54.5 (Wilson) | 1 | 1.235 | 98.7 | 81 | 100 |"
    in lines
  )
  assert "| bad | failed |  |  |  |  |  |  |" in lines
  assert "| late | not run |  | 0 |  |  |  |  |" in lines
  assert len({x.count("|") for x in lines if x.startswith("|")}) == 1


def test_picture(result):
  """Dots at the means, lines from end to end, a tick for each seed."""
  full = with_intervals(result)
  figure = draw(full)
  one, two = figure.axes
  assert one.get_title(loc="left") == "One"
  assert [t.get_text() for t in two.get_yticklabels()] == [
    "other",
    "bad",
    "late",
  ]
  drawn = [line.get_xydata().tolist() for line in one.lines[1:]]
  row = full["rows"]["full"]
  assert drawn[0] == [[100 * row["low"], 0], [100.0, 0]]
  assert drawn[1] == [[80.0, 0], [90.0, 0]]
  assert drawn[2] == [[100 * row["mean"], 0]]
  assert [t.get_text() for t in two.texts] == ["failed", "not run"]


# --- rows


@pytest.mark.slow
def test_every_row_is_another_program():
  """Of models of one structure too: the operations differ, or the weights."""
  programs = {}
  config = get_config("smoke")
  for row, model in config.ablation.rows.items():
    options = model.to_dict()
    name = options.pop("name")
    size = options["image_size"]
    definition, params, stats = split(
      nnx.eval_shape(lambda n=name, o=options: create_model(n, **o))
    )

    def logits(params, stats, video, definition=definition):
      return merge(definition, params, stats)(video)

    video = jax.ShapeDtypeStruct((1, 8, size, size, 3), jnp.float32)
    program = jax.jit(logits).lower(params, stats, video).as_text()
    shapes = jax.tree.map(lambda x: x.shape, params)
    programs.setdefault(f"{shapes}{program}", []).append(row)
  assert [rows for rows in programs.values() if len(rows) > 1] == []
  assert len(programs) == len(ROWS)


def test_tables_of_the_page():
  shown = {row for rows in TABLES.values() for row in rows.values()}
  assert shown == set(ROWS)
  rows = shown_rows(get_config())
  assert sorted(rows) == sorted(ROWS)
  assert rows[:2] == list(TABLES["Operations on ViT"].values())[:2]


def test_configuration_of_a_row(tmp_path):
  page = get_config()
  config = row_config(page, "xvit_v", 3, tmp_path)
  assert (config.seed, config.data.root) == (3, str(tmp_path))
  assert config.model.temporal.mix == "v"
  assert config.train == page.train
  assert "ablation" not in config
  assert (page.seed, page.data.root) == (0, "")
  assert config.name == "Ablations on motion clips: xvit_v"


def test_wrong_tables():
  page = get_config()
  tables = page.ablation.tables
  page.ablation.tables = tables[1:]
  with pytest.raises(ValueError, match="'vit_divided' is in none"):
    shown_rows(page)
  page.ablation.tables = (*tables, ("new", (("label", "yvit"),)))
  with pytest.raises(ValueError, match="there is no row 'yvit'"):
    shown_rows(page)


def test_equal_rows():
  page = get_config()
  page.ablation.rows.xvit_x.temporal.mix = "k"
  with pytest.raises(ValueError, match="'xvit_k' and 'xvit_x' have the same"):
    shown_rows(page)


# --- the program


def without_picture(result, folder, *, picture=True):
  write_report(result, folder, picture=False)


@pytest.fixture
def fake(monkeypatch):
  """Trainings that take no time; calls are noted."""
  calls = []

  def train(config, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    row = workdir.parent.name
    calls.append((row, config.seed))
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    if row == "vit_tsm":
      raise FloatingPointError("it\nfell over")
    if row == "vit_joint" and len(calls) == 3:
      return {"stopped": True}
    summary = {"eval/top1": 0.5 + 0.1 * config.seed, "eval/videos": 12}
    summary |= {"steps": 2, "params": 5, "gmacs_per_view": 7e-9}
    (workdir / "summary.json").write_text(json.dumps(summary))
    return summary

  def prepare(config):
    if config.model.name == "tokshift_vit_motion":
      raise ValueError("no such token")
    subject = ablate.Subject(config, 7, {"train": lambda: None}, lambda: 0.0)
    return subject, 9

  monkeypatch.setattr(ablate.loop, "train", train)
  monkeypatch.setattr(ablate, "prepare_row", prepare)
  monkeypatch.setattr(ablate, "open_splits", lambda config, workdir: None)
  monkeypatch.setattr(ablate, "write_report", without_picture)
  return calls


def run(workdir, rows, *more):
  return ablate.main(
    [f"--config={PAGE}", f"--workdir={workdir}", f"--rows={rows}", *more]
  )


def test_all_seeds(fake, tmp_path, capsys):
  assert run(tmp_path, "vit_none,xvit") == 0
  assert fake == [("vit_none", 0), ("xvit", 0), ("vit_none", 1), ("xvit", 1)]
  result = json.loads((tmp_path / "ablation.json").read_text())
  row = result["rows"]["xvit"]
  assert row["top1"] == {"0": 0.5, "1": 0.6}
  assert (row["params"], row["multiply_adds"], row["memory_bytes"]) == (5, 7, 9)
  assert row["median_ms"] >= row["fastest_ms"] > 0
  assert row["mean"] == pytest.approx(0.55)
  assert "ablate --config=configs/ablation_motion.py:smoke" in result["command"]
  out = capsys.readouterr().out
  assert "[4/4] xvit, seed 1: top-1 60.0%, 0 min left" in out
  assert "| k and v | 55.0 | " in out


def test_what_is_done_stays(fake, tmp_path):
  """A command that was killed goes on with what it has not finished."""
  assert run(tmp_path, "vit_none,vit_divided,xvit") == 0
  rows = ("vit_none", "vit_divided", "xvit")
  assert fake == [(row, seed) for seed in (0, 1) for row in rows]
  del fake[:]
  (tmp_path / "xvit" / "seed0" / "summary.json").unlink()  # killed
  (tmp_path / "xvit" / "seed0" / "config.json").unlink()
  (tmp_path / "xvit" / "seed0").rmdir()
  assert run(tmp_path, "vit_none,vit_divided,xvit") == 0
  assert fake == [("xvit", 0)]


def test_a_row_fails(fake, tmp_path, capsys):
  """The others go on, and it is tried again by the next command."""
  assert run(tmp_path, "vit_tokshift,vit_tsm,vit_divided") == 1
  assert fake == [
    ("vit_tokshift", 0),
    ("vit_tsm", 0),
    ("vit_divided", 0),
    ("vit_tokshift", 1),
    ("vit_divided", 1),
  ]
  out, err = capsys.readouterr()
  assert "error: row vit_tokshift: ValueError: no such token" in err
  assert "error: row vit_tsm: FloatingPointError: it fell over" in err
  assert "| TSM | failed |" in out
  assert "| divided attention | 55.0 |" in out
  del fake[:]
  assert run(tmp_path, "vit_divided,vit_tsm") == 1
  assert fake == [("vit_tsm", 0)]


def test_without_training(fake, tmp_path, capsys):
  """What was stopped is measured and shown, wherever it lies now."""
  assert run(tmp_path / "old", "vit_joint") == 0
  (tmp_path / "old" / "costs.json").unlink()
  (tmp_path / "old").rename(tmp_path / "new")
  del fake[:]
  capsys.readouterr()
  assert run(tmp_path / "new", "vit_joint,xvit", "--notrain") == 0
  assert fake == []
  out = capsys.readouterr().out
  assert "[1/1] vit_joint: compiled" in out
  assert "| joint attention | 55.0 |" in out
  result = json.loads((tmp_path / "new" / "ablation.json").read_text())
  assert result["command"].endswith(f"--config={PAGE} --workdir={tmp_path}/new")
  assert result["seeds"] == [0, 1]


def test_costs_are_measured_together(fake, tmp_path, capsys):
  """All trained rows again if there is a new one, none if there is not."""
  assert run(tmp_path, "xvit") == 0
  assert "[1/1] xvit: compiled" in capsys.readouterr().out
  assert run(tmp_path, "vit_none") == 0
  out = capsys.readouterr().out
  assert "[1/2] vit_none: compiled" in out
  assert "[2/2] xvit: compiled" in out
  assert run(tmp_path, "vit_none") == 0
  assert "compiled" not in capsys.readouterr().out


def test_told_to_stop(fake, tmp_path, capsys):
  assert run(tmp_path, "vit_none,vit_tsm,vit_joint,xvit") == 1
  assert "stopped at row vit_joint, seed 0" in capsys.readouterr().out
  assert len(fake) == 3
  result = json.loads((tmp_path / "ablation.json").read_text())
  assert result["rows"]["vit_joint"]["top1"] == {}


def test_a_run_of_another_configuration(fake, tmp_path, capsys):
  assert run(tmp_path, "xvit") == 0
  assert run(tmp_path, "xvit", "--config.train.steps=3") == 1
  assert "holds a run of another configuration" in capsys.readouterr().err


def test_finished(tmp_path):
  config = row_config(get_config("smoke"), "xvit", 0, tmp_path)
  assert finished(config, tmp_path) is None
  (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
  assert finished(config, tmp_path) is None
  summary = {"eval/top1": 0.5, "eval/videos": 8, "steps": 2}
  summary |= {"params": 3, "gmacs_per_view": 0.0723961}
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  assert finished(config, tmp_path) == Finished(0.5, 8, 2, 3, 72396100)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--config=configs/xvit_motion.py"], "has no section `ablation`"),
    ([f"--config={PAGE}", "--rows=yvit"], "there is no row 'yvit'"),
    ([f"--config={PAGE}", "--config.modle=3"], "unknown configuration key"),
    ([f"--config={PAGE}", "--seeds=3"], "seeds"),
    ([], "--config"),
  ],
)
def test_wrong_arguments(arguments, said, capsys, tmp_path):
  assert ablate.main([*arguments, f"--workdir={tmp_path}"]) == 1
  assert said in capsys.readouterr().err


def test_cost_of_a_row(monkeypatch, tmp_path):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  config = row_config(get_config("smoke"), "vit_none", 0, tmp_path)
  subject, size = ablate.prepare_row(config)
  options = config.model.to_dict()
  model = nnx.eval_shape(lambda: create_model(**options))
  _, params, _ = split(model)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  # Parameters and two moments of them, the batch of bytes, and activations.
  arguments = 4 * 3 * count + 8 * 8 * 32 * 32 * 3
  assert size > arguments
  for _ in range(2):  # the state is donated from step to step
    subject.programs["train"]()


@pytest.mark.slow
def test_two_rows_for_real(tmp_path, capsys):
  assert run(tmp_path, "vit_none,vit_sifa", "--config.ablation.seeds=(5,)") == 0
  result = json.loads((tmp_path / "ablation.json").read_text())
  for row in ("vit_none", "vit_sifa"):
    found = result["rows"][row]
    assert 0 <= found["top1"]["5"] <= 1
    assert found["interval"] == "Wilson"
    summary = tmp_path / row / "seed5" / "summary.json"
    assert json.loads(summary.read_text())["steps"] == 2
  assert not (tmp_path / "vit_none" / "seed5" / "motion").exists()
  assert (tmp_path / "motion" / "train.jsonl").exists()
  assert (tmp_path / "ablation.png").stat().st_size > 10_000
  assert "[2/2] vit_sifa, seed 5" in capsys.readouterr().out


# --- what is committed


def test_committed_results():
  """The page shows the tables of its JSON, which are those of the config."""
  result = json.loads((BENCHMARKS / "ablation.json").read_text())
  tables = {table["title"]: dict(table["rows"]) for table in result["tables"]}
  assert tables == TABLES
  assert markdown(with_intervals(result)) in (
    BENCHMARKS / "ablation.md"
  ).read_text(encoding="utf-8")
  page = get_config()
  assert result["steps"] == page.train.steps
  assert result["batch_size"] == page.data.batch_size
