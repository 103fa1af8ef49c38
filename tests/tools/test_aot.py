import importlib.util
import json

import jax
import pytest

from configs.xvit_motion import get_config
from tests import oracles
from vidjax.tools import aot

# ml_collections reads configuration files in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings(
  "ignore:the load_module:DeprecationWarning"
)


def test_without_libtpu(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  arguments = ["--config=configs/xvit_motion.py:smoke"]
  assert aot.main(arguments) == 1
  assert (
    "needs libtpu; pip install 'vidjax[tpu-aot]'" in capsys.readouterr().err
  )


def test_a_configuration_is_needed(capsys):
  assert aot.main(["--topology=v5e:2x4"]) == 1
  assert "--config" in capsys.readouterr().err


def test_programs_of_the_devices_at_hand(monkeypatch, capsys, tmp_path):
  """What is printed of them, on CPUs in the place of TPUs."""
  monkeypatch.setattr(jax, "jit", oracles.jit)
  monkeypatch.setattr(aot, "slice_devices", lambda topology: jax.devices())
  arguments = [
    "--config=configs/xvit_motion.py:smoke",
    "--topology=v5e:1x1",
    "--config.data.batch_size=16",
    "--config.schedule.warmup_epochs=0",
    "--json",
    f"--hlo={tmp_path}",
  ]
  assert aot.main(arguments) == 0
  result = json.loads(capsys.readouterr().out)
  assert (result["topology"], result["global_batch"]) == ("v5e:1x1", 16)
  train, evaluation = result["train"], result["eval"]
  assert train["flops"] > 2 * evaluation["flops"] > 0
  config = get_config("smoke")
  clip = config.data.frames * 32 * 32 * 3
  # The clips, as bytes, are among what a device holds.
  assert train["hbm_peak_bytes"] > train["temporary_bytes"] + 16 * clip
  assert train["collectives"] == {}
  assert "ENTRY" in (tmp_path / "train.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="compiles for TPUs: pip install 'vidjax[tpu-aot]'",
)
def test_a_slice(capsys):
  arguments = [
    "--config=configs/sifa_motion.py",
    "--topology=v5e:2x4",
    "--json",
  ]
  assert aot.main(arguments) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["train"]["collectives"]["all-reduce"] > 0
