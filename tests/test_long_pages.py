"""The pages of long clips run on eight devices that share the frames."""

import json
import subprocess
import sys

import pytest

from tests.on_devices import ROOT, environment

# Twice as many frames as "smoke" has, so that each device has several.
FRAMES = {"xvit_long": 32, "tps_long": 64}


@pytest.mark.slow
@pytest.mark.parametrize("page", FRAMES)
def test_a_page_of_long_clips_on_eight_devices(page, tmp_path, compile_cache):
  frames = FRAMES[page]
  flags = [
    f"--config=configs/{page}.py:smoke",
    f"--workdir={tmp_path}",
    f"--config.data.frames={frames}",
    "--config.mesh.frames=8",
  ]
  if page == "tps_long":
    flags.append(f"--config.model.bias_frames={frames // 2}")
  done = subprocess.run(
    [sys.executable, "-m", "vidjax.main", *flags],
    cwd=ROOT,
    env=environment(compile_cache, 8),
    capture_output=True,
    text=True,
    check=False,
    timeout=400,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  summary = json.loads(done.stdout.splitlines()[-1])
  assert summary["steps"] == 2
  assert summary["eval/videos"] == 12
  assert summary["device"].startswith("8 x ")
  assert "frames do not divide" not in done.stderr
