import dataclasses

import jax
import numpy as np
import pytest

from tests import oracles
from vidjax.tools import parity_laps
from vidjax.tools.golden import read_case

# Listed here, so that a case that is lost is seen.
CASES = (
  "patterns",
  "tokshift_T8",
  "train_step_visformer_laps_T8",
  "visformer_base2d_T8",
  "visformer_laps_T12_96px_h3",
  "visformer_laps_T8",
  "visformer_plainshift_T8",
  "visformer_ps_T8",
  "vit_laps_T8",
)


def test_every_case_is_stored(shared):
  found = sorted(p.stem for p in (shared / "golden" / "laps").glob("*.npz"))
  assert found == sorted(CASES)


def stored(shared, name):
  return read_case(shared / "golden" / "laps" / f"{name}.npz")


def run(case, monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  return parity_laps.KINDS[case.kind](case)


# CI runs the command on all of them (.ci/run).
@pytest.mark.parametrize(
  "name", ["patterns", "tokshift_T8", "visformer_laps_T8"]
)
def test_case(name, shared, monkeypatch):
  result = run(stored(shared, name), monkeypatch)
  assert result.passed, result


@pytest.mark.parametrize(
  ("kind", "entry"),
  [
    ("patterns", "leap/T8/level2/pair"),
    ("patterns", "leap/T8/level2/two_index"),
    ("patterns", "shift/periodic/z10/fold4"),
    ("patterns", "shift/plain/T8/fold8"),
    ("patterns", "shift/token/T16/fold4"),
    ("patterns", "joint3d/T4/clip"),
    ("visformer_laps_T12_96px_h3", "logits"),
    ("visformer_laps_T12_96px_h3", "g/base_model.stem.0.weight"),
  ],
)
def test_a_wrong_number_fails(kind, entry, shared, monkeypatch):
  case = stored(shared, kind)
  wrong = case.arrays[entry].copy()
  wrong.flat[-1] += max(1, np.abs(wrong).max() / 100)
  case = dataclasses.replace(case, arrays=dict(case.arrays) | {entry: wrong})
  assert not run(case, monkeypatch).passed


def test_another_plug_fails(shared, monkeypatch):
  case = stored(shared, "visformer_laps_T12_96px_h3")
  official = dict(case.official) | {"stage2_levels": [2, 1]}
  assert not run(
    dataclasses.replace(case, official=official), monkeypatch
  ).passed


def test_patterns_need_their_table(shared, tmp_path):
  case = stored(shared, "patterns")
  case = dataclasses.replace(case, path=tmp_path / "patterns.npz")
  with pytest.raises(ValueError, match=r"needs patterns\.json, .* copy it"):
    parity_laps.run_patterns(case)
