import functools
import importlib.util
import json
import re
import types

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from configs import laps_k400_8x8, sifa_r50_k400_16, xvit_k400
from configs.xvit_motion import get_config
from tests import oracles
from vidjax.models.cost import multiply_adds
from vidjax.nn.attention import attend
from vidjax.tools import aot
from vidjax.train.run import abstract_model

# ml_collections reads configuration files in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="compiles for TPUs: pip install 'vidjax[tpu-aot]'",
)


def test_without_libtpu(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  arguments = ["--config=configs/xvit_motion.py:smoke"]
  assert aot.main(arguments) == 1
  assert (
    "needs libtpu; pip install 'vidjax[tpu-aot]'" in capsys.readouterr().err
  )


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--topology=v5e:2x4"], "--config"),
    (
      ["--config=configs/xvit_motion.py", "--config.data.batchsize=8"],
      "unknown configuration key 'batchsize' Did you mean \"batch_size\"",
    ),
  ],
)
def test_wrong_arguments(arguments, said, capsys):
  assert aot.main(arguments) == 1
  assert said in capsys.readouterr().err


@pytest.fixture
def cpus(monkeypatch):
  """CPUs in the place of TPUs."""
  monkeypatch.setattr(jax, "jit", oracles.jit)
  monkeypatch.setattr(aot, "slice_devices", lambda topology: jax.devices())


SMOKE = ["--config=configs/xvit_motion.py:smoke", "--topology=v5e:1x1"]


def test_programs_of_the_devices_at_hand(cpus, capsys, tmp_path):
  """What is printed of them."""
  arguments = [
    *SMOKE,
    "--config.data.batch_size=16",
    "--json",
    f"--hlo={tmp_path}",
  ]
  assert aot.main(arguments) == 0
  result = json.loads(capsys.readouterr().out)
  assert (result["topology"], result["global_batch"]) == ("v5e:1x1", 16)
  assert (result["devices"], result["hbm_bytes"]) == (1, 16 * 10**9)
  train, evaluation = result["train"], result["eval"]
  assert train["flops"] > 2 * evaluation["flops"] > 0
  config = get_config("smoke")
  clip = config.data.frames * 32 * 32 * 3
  # One view of each video costs twice its multiply-adds.
  video = jax.ShapeDtypeStruct((1, config.data.frames, 32, 32, 3), "float32")
  macs = multiply_adds(abstract_model(config), video)
  want = 2 * config.eval.batch_size * macs
  assert evaluation["flops"] == pytest.approx(want, rel=0.02)
  # The clips, as bytes, are among what a device holds.
  assert train["argument_bytes"] > 16 * clip
  held = sum(
    train[f"{part}_bytes"]
    for part in ("argument", "output", "temporary", "program")
  )
  assert train["hbm_peak_bytes"] == held - train["alias_bytes"]
  assert train["fits"] is True
  assert train["collectives"] == {}
  assert train["warnings"] == []
  assert "ENTRY" in (tmp_path / "train.txt").read_text()


ROW = {
  "argument_bytes": 750 * 10**6,
  "output_bytes": 750 * 10**6,
  "alias_bytes": 750 * 10**6,
  "temporary_bytes": 7464 * 10**6,
  "hbm_peak_bytes": 8214 * 10**6,
  "fits": True,
  "flops": 6.73e12,
  "collectives": {"all-reduce": {"count": 6, "bytes": 187635596}},
}


def test_a_row_takes_the_place_of_an_older_one(monkeypatch, capsys, tmp_path):
  flops = iter([1e12, 2e12, 3e12])

  def report(config, topology, folder):
    return {
      "topology": topology,
      "global_batch": config.data.batch_size,
      "train": ROW | {"flops": next(flops), "warnings": ["much is moved"]},
      "eval": ROW | {"warnings": []},
    }

  monkeypatch.setattr(aot, "report", report)
  page = tmp_path / "tpu.md"
  page.write_text("# Page\n\n| a | b |\n| --- | --- |\n")
  for batch in (8, 16, 8):
    arguments = [
      "--config.dtype=bfloat16",
      f"--config.data.batch_size={batch}",
      f"--append={page}",
    ]
    assert aot.main([*SMOKE, *arguments]) == 0
  rest = "| 0.75 | 7.46 | 8.21 | yes | {} | all-reduce 6 x, 188 MB | 8.21 | - |"
  name = "| `xvit_motion.py:smoke`, dtype=bfloat16 | v5e:1x1"
  assert page.read_text().splitlines() == [
    "# Page",
    "",
    "| a | b |",
    "| --- | --- |",
    f"{name} | 16 {rest.format('2.00')}",
    f"{name} | 8 {rest.format('3.00')}",
  ]
  out = capsys.readouterr().out
  assert "X-ViT on motion clips (smoke) on v5e:1x1, 16 clips a step" in out
  assert "train  8.21 GB a device: fits" in out
  assert "all-reduce: 6, 187.6 MB" in out
  assert "warning: much is moved" in out


class Lowered:
  """A program that the compiler refuses."""

  def __init__(self, message):
    self.message = message

  def compile(self):
    raise jax.errors.JaxRuntimeError(self.message)


FULL = (
  "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
  "memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G."
)


def test_a_program_that_is_too_large(cpus, monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(
    aot,
    "lower_programs",
    lambda config, devices: {"train": Lowered(FULL), "eval": Lowered(FULL)},
  )
  page = tmp_path / "tpu.md"
  page.write_text("")
  assert aot.main([*SMOKE, f"--append={page}"]) == 0
  out = capsys.readouterr().out
  assert "train  26.31 GB a device: does NOT fit" in out
  assert page.read_text() == (
    "| `xvit_motion.py:smoke` | v5e:1x1 | 8 | - | - | 26.31 | no | - | - | "
    "26.31 | - |\n"
  )


@pytest.mark.parametrize(
  ("sentence", "size"),
  [
    (FULL, 24.5 * 2**30),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (165.87P) exceeds available HBM (15.75G).",
      165.87 * 2**50,
    ),
  ],
)
def test_the_compiler_says_how_much_too_large(sentence, size):
  with pytest.raises(aot.TooLargeError) as error:
    aot.compile_program(Lowered(sentence))
  assert error.value.bytes == int(size)


def test_other_errors_of_the_compiler_are_shown():
  with pytest.raises(jax.errors.JaxRuntimeError, match=r"INTERNAL"):
    aot.compile_program(Lowered("INTERNAL: a mistake"))


@pytest.mark.parametrize(
  ("config", "devices", "want"),
  [
    (xvit_k400.get_config(), 16, 16),  # groups of 8 clips are mixed up
    (xvit_k400.get_config(), 4, 8),
    (laps_k400_8x8.get_config(), 12, 240),  # 8 norms in 10 micro-batches
    (sifa_r50_k400_16.get_config(), 16, 64),
  ],
)
def test_unit_of_a_batch(config, devices, want):
  assert aot.batch_unit(config, devices) == want


def test_a_batch_of_one_unit_builds(cpus):
  config = laps_k400_8x8.get_config("smoke")
  unit = aot.batch_unit(config, 4)
  assert unit == 8  # 2 norms, 4 devices, 2 micro-batches
  config.data.batch_size = unit
  aot.build_run(config, jax.devices())


def linear(batch):
  return 100 + 7 * batch


def curved(batch):
  return 100 + 7 * batch + batch**2 // 40


def saving(batch):
  """The compiler computes more of a large program twice."""
  size = linear(batch)
  return size if size < 1400 else 1400 + (size - 1400) // 2


def dipping(batch):
  """The compiler saves more where a batch just does not fit otherwise."""
  return linear(batch) - (150 if 1600 < linear(batch) < 2100 else 0)


@pytest.mark.parametrize("needed", [linear, curved, saving, dipping])
@pytest.mark.parametrize("unit", [8, 16])
def test_largest_batch(needed, unit):
  capacity = 2000
  best, tried = aot.largest_batch(needed, unit, capacity, {})
  assert tried == {batch: needed(batch) for batch in tried}
  assert needed(best) <= capacity < needed(best + unit)
  assert len(tried) <= 6


def test_largest_batch_of_a_line_takes_three_programs():
  best, tried = aot.largest_batch(linear, 10, 2000, {})
  assert best == 270  # 100 + 7 * 270 = 1990
  assert sorted(tried) == [10, 20, 270]


@pytest.mark.parametrize(
  ("batch", "then"), [(60, [10, 60, 270]), (400, [10, 270, 400]), (65, None)]
)
def test_a_batch_that_is_known_saves_a_program(batch, then):
  best, tried = aot.largest_batch(linear, 10, 2000, {batch: linear(batch)})
  assert best == 270
  assert list(tried) == (then or [10, 20, 270])  # 65 is no multiple of 10


def test_a_slope_that_is_hidden():
  """SIFA-R50's, on v5e:4x4: 50 clips a device take less than 46."""
  known = {1: 148, 6: 352, 36: 1266, 46: 1503, 50: 1495}
  best, tried = aot.largest_batch(lambda batch: 28 * batch, 1, 1600, known)
  assert set(tried) - set(known) == {53, 57}
  assert best == 57


def test_nothing_fits():
  best, tried = aot.largest_batch(linear, 10, 150, {})
  assert best == 0
  assert sorted(tried) == [10, 20]


def test_search(cpus, monkeypatch, capsys, tmp_path):
  """The batch is that of the configuration; refused programs count too."""
  built = []

  class Program:
    def __init__(self, batch):
      self.batch = batch

    def compile(self):
      size = self.batch * 10**8
      if size > 16.9 * 10**9:
        gigabytes = size / 2**30
        raise jax.errors.JaxRuntimeError(f"Used {gigabytes:.4f}G of 15.75G hbm")
      memory = types.SimpleNamespace(
        argument_size_in_bytes=size,
        output_size_in_bytes=3,
        alias_size_in_bytes=3,
        temp_size_in_bytes=0,
        generated_code_size_in_bytes=0,
      )
      return types.SimpleNamespace(memory_analysis=lambda: memory)

  def lower(config, devices):
    built.append(config.data.batch_size)
    return {"train": Program(config.data.batch_size)}

  def report(config, topology, folder):
    return {
      "topology": topology,
      "hbm_bytes": aot.hbm_bytes(topology),
      "global_batch": 8,
      "train": ROW | {"hbm_peak_bytes": 8 * 10**8, "warnings": []},
      "eval": ROW | {"warnings": []},
    }

  monkeypatch.setattr(aot, "lower_programs", lower)
  monkeypatch.setattr(aot, "report", report)
  page = tmp_path / "tpu.md"
  page.write_text("")
  arguments = [*SMOKE, "--largest-batch", f"--append={page}"]
  assert aot.main([*arguments, "--json"]) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["largest_batch"] == 160
  assert built == [1, 160]
  assert result["tried"] == {
    "1": 10**8,
    "8": 8 * 10**8,
    "160": 16 * 10**9,
  }
  assert page.read_text().endswith("| 160 |\n")
  assert aot.main(arguments) == 0
  assert "that fits: 160" in capsys.readouterr().out

  arguments = [SMOKE[0], "--topology=v9:1x1", "--largest-batch"]
  assert aot.main(arguments) == 1
  assert "the memory of v9:1x1 is not known" in capsys.readouterr().err


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("family", ["xvit", "tps", "laps", "sifa"])
def test_a_slice(family, capsys, tmp_path):
  """A tiny configuration of each family, with its real recipe's parts."""
  arguments = [
    f"--config=configs/{family}_motion.py:smoke",
    "--config.dtype=bfloat16",
    "--topology=v5e:2x2",
    "--json",
    f"--hlo={tmp_path}",
  ]
  assert aot.main(arguments) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["devices"] == 4
  # Process 0 writes the float32 probabilities of all videos, so it has them.
  scores = result["eval_batch"] * get_config().model.num_classes * 4
  for name, gathered in (("train", 0), ("eval", scores)):
    row = result[name]
    assert row["fits"] is True
    assert row["flops"] > 0
    assert row["collectives"]["all-reduce"]["count"] > 0
    # Nothing else is put together that was split, and nothing is looked up.
    found = row["collectives"].get("all-gather", {"bytes": 0})
    assert found["bytes"] == gathered
    assert not [w for w in row["warnings"] if w.startswith(("gather", "scat"))]
  # The gradients are summed over the devices, in whichever dtype.
  assert result["train"]["collectives"]["all-reduce"]["bytes"] > 1000


@needs_libtpu
def test_an_unknown_slice(capsys):
  assert aot.main([SMOKE[0], "--topology=v99:2x2"]) == 1
  assert "does not know the topology 'v99:2x2'" in capsys.readouterr().err


@pytest.mark.slow
@needs_libtpu
def test_logits_are_not_copied():
  """They were, with 8 frames of as many tokens as are no multiple of 8."""
  tokens = jax.ShapeDtypeStruct(
    (4, 8, 65, 128),
    "bfloat16",
    sharding=SingleDeviceSharding(aot.slice_devices("v5e:2x2")[0]),
  )

  def gradient(q, k, v, g):
    return jax.vjp(functools.partial(attend, heads=2), q, k, v)[1](g)

  program = jax.jit(gradient).lower(*[tokens] * 4).compile().as_text()
  assert re.search(r"\[[\d,]+,65,65\]", program)
  assert not re.search(r"\[[\d,]+,65,65\]\S* copy(-start)?\(", program)
