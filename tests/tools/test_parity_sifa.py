import dataclasses

import jax
import numpy as np
import pytest

from tests import oracles
from vidjax.tools import parity_sifa
from vidjax.tools.golden import read_case

# Listed here, so that a case that is lost is seen.
CASES = (
  "block_k3_seed0",
  "block_k5_seed0",
  "init_transfer",
  "lr_schedule",
  "net_r50layout_div16_seed0",
  "net_tiny_2dresnet_seed0",
  "net_tiny_seed0",
  "op_groups2",
  "op_seed0",
  "swin_tiny_seed0",
)


def test_every_case_is_stored(shared):
  found = sorted(p.stem for p in (shared / "golden" / "sifa").glob("*.npz"))
  assert found == sorted(CASES)


def stored(shared, name):
  return read_case(shared / "golden" / "sifa" / f"{name}.npz")


def run(case, monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  return parity_sifa.KINDS[case.kind](case)


# CI runs the command on all of them (.ci/run).
@pytest.mark.parametrize(
  "name",
  [
    "block_k3_seed0",
    "init_transfer",
    "lr_schedule",
    "op_groups2",
    "swin_tiny_seed0",
  ],
)
def test_case(name, shared, monkeypatch):
  result = run(stored(shared, name), monkeypatch)
  assert result.passed, result


@pytest.mark.parametrize(
  ("name", "entry"),
  [
    ("block_k3_seed0", "output"),
    ("block_k3_seed0", "g/conv_offset.weight"),
    ("init_transfer", "resnet/out/layer4_dual.0.conv1.weight"),
    ("lr_schedule", "k400"),
    ("net_tiny_2dresnet_seed0", "logits_dual"),
    ("net_tiny_2dresnet_seed0", "prob"),
    ("op_groups2", "corr"),
    ("op_groups2", "g_off_agg"),
  ],
)
def test_a_wrong_entry_fails(name, entry, shared, monkeypatch):
  case = stored(shared, name)
  wrong = np.array(case.arrays[entry])
  wrong.flat[0] += 0.05 * np.abs(wrong).max()
  changed = dataclasses.replace(case, arrays={**case.arrays, entry: wrong})
  assert not run(changed, monkeypatch).passed
