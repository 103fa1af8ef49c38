"""Parts of tests that need several devices run in one child process each."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def environment(cache: pathlib.Path, devices: int) -> dict[str, str]:
  """Variables of a child process with a number of CPU devices."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
  }


def results(name: str, cache: pathlib.Path, devices: int = 8) -> dict:
  """Runs `main` of a test module on CPU devices; returns the JSON it prints."""
  done = subprocess.run(
    [sys.executable, "-c", f"from {name} import main; main()"],
    cwd=ROOT,
    env=environment(cache, devices),
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])
