import pathlib
import re

import jax
import numpy as np
import pytest

from tests import oracles
from vidjax.tools import parity
from vidjax.tools.golden import read_case

# Listed here, so that a case that is lost is seen.
XVIT = (
  "abl_mix_k",
  "abl_mix_x",
  "misc",
  "sgd3",
  "tiny_avg_div8",
  "tiny_div5_floor",
  "tiny_eps",
  "tiny_k400yaml_16f",
  "tiny_loc0_ta2",
  "tiny_nomix_ta",
  "tiny_odd5",
  "tiny_posinterp40",
  "tiny_ta_div4",
  "tiny_ta_div8",
)
TPS = (
  "inflate",
  "ops",
  "tiny_31frames",
  "tiny_base",
  "tiny_pad",
  "tiny_t8_patched",
)
SMALLEST = "tiny_avg_div8"
# CI runs the command on all of them (.ci/run); these are here to see it work.
CASES = [
  ("xvit", SMALLEST),
  ("xvit", "misc"),
  ("xvit", "tiny_ta_div8"),
  ("tps", "inflate"),
  ("tps", "ops"),
  ("tps", "tiny_t8_patched"),
]
# One of each family runs as users run it; the rest compiles for less.
WHOLE = (("xvit", SMALLEST), ("tps", "tiny_t8_patched"))


def altered(shared, tmp_path, name, change, case=f"xvit/{SMALLEST}"):
  """A copy of a case with one array changed."""
  with np.load(shared / "golden" / f"{case}.npz") as file:
    stored = dict(file)
  stored[name] = change(stored[name])
  path = tmp_path / "altered.npz"
  np.savez(path, **stored)
  return path


@pytest.mark.parametrize(("family", "names"), [("xvit", XVIT), ("tps", TPS)])
def test_every_case_is_stored(family, names, shared):
  found = sorted(p.stem for p in (shared / "golden" / family).glob("*.npz"))
  assert found == sorted(names)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_case(family, name, shared, capsys, monkeypatch):
  if (family, name) not in WHOLE:
    monkeypatch.setattr(jax, "jit", oracles.jit)
  path = shared / "golden" / family / f"{name}.npz"
  assert parity.main([str(path)]) == 0
  line = capsys.readouterr().out
  match = re.fullmatch(
    rf"{family} +(\S+) +logits (\S+)  gradients (\S+)  PASS\n", line
  )
  assert match, line
  assert match[1] == read_case(path).name
  assert float(match[2]) < 1e-4
  assert float(match[3]) <= 1e-4


def nudge(array):
  """Moves one entry by a thousandth of the largest."""
  moved = array.copy()
  moved.flat[-1] += 1e-3 * max(1.0, np.abs(array).max())
  return moved


def nudge_gradient(array):
  moved = array.copy()
  moved.flat[0] += 1e-3 * np.abs(array).max()
  return moved


@pytest.mark.parametrize(
  ("prefix", "change"),
  [("logits", nudge), ("g/", nudge_gradient), ("loss", nudge)],
)
def test_a_wrong_number_fails(prefix, change, shared, tmp_path, capsys):
  with np.load(shared / "golden" / "xvit" / f"{SMALLEST}.npz") as file:
    name = next(n for n in sorted(file.files) if n.startswith(prefix))
  path = altered(shared, tmp_path, name, change)
  assert parity.main([str(path)]) == 1
  assert capsys.readouterr().out.endswith("  FAIL\n")


def rotate(array):
  """Every entry in a wrong place."""
  return np.roll(array, 1)


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("patch_shift/T3/out", rotate),
    ("patch_shift/T16/out_inv", rotate),
    ("channel_shift/c32/out", rotate),
    ("rel_index/psm", rotate),
    ("rel_index/tsm_and_space", rotate),
    ("mask/1x14x14_s033", rotate),
    ("window/out", rotate),
    ("merge/out", rotate),
    ("window_size/size_ws_shift", lambda rows: rows + 1),
    ("attn/psm/out_mask", nudge),
    ("attn/tsm/out", nudge),
  ],
)
def test_a_wrong_operation_fails(name, change, shared, tmp_path, capsys):
  path = altered(shared, tmp_path, name, change, case="tps/ops")
  assert parity.main([str(path)]) == 1
  assert capsys.readouterr().out.endswith("  FAIL\n")


@pytest.mark.parametrize(
  "name",
  [
    "patch_embed.proj.weight",
    "layers.0.blocks.0.attn.relative_position_bias_table",
  ],
)
@pytest.mark.parametrize("window", ["w7", "w12"])
def test_a_wrong_inflation_fails(window, name, shared, tmp_path, capsys):
  path = altered(
    shared, tmp_path, f"{window}/out/{name}", nudge, case="tps/inflate"
  )
  assert parity.main([str(path)]) == 1
  assert capsys.readouterr().out.endswith("  FAIL\n")


def refused(capsys, *paths: pathlib.Path) -> str:
  """What is said about wrong paths: one sentence, with status 2."""
  assert parity.main([str(path) for path in paths]) == 2
  captured = capsys.readouterr()
  assert not captured.out
  assert captured.err.startswith("error: ")
  assert captured.err.count("\n") == 1
  return captured.err


@pytest.mark.parametrize("key", ["family", "kind"])
def test_unknown_family_or_kind(key, shared, tmp_path, capsys):
  def rename(meta):
    text = bytes(meta).decode()
    other = re.sub(rf'("{key}": *)"[^"]*"', r'\1"nobody"', text)
    assert other != text
    return np.frombuffer(other.encode(), np.uint8)

  path = altered(shared, tmp_path, "meta", rename)
  assert (
    f"no runner for family {'nobody' if key == 'family' else 'xvit'!r}"
    in (said := refused(capsys, path))
  )
  assert "'nobody'" in said
  assert "known families are xvit, tps" in said


def test_missing_path(tmp_path, capsys):
  said = refused(capsys, tmp_path / "none.npz")
  assert f"no golden case at {tmp_path / 'none.npz'}" in said


def test_folder_without_cases(tmp_path, capsys):
  (tmp_path / "notes.txt").write_text("nothing here")
  assert f"no golden case at {tmp_path}" in refused(capsys, tmp_path)


def test_text_file(tmp_path, capsys):
  path = tmp_path / "notes.txt"
  path.write_text("nothing here")
  assert f"{path} is not a golden case" in refused(capsys, path)


def test_no_path(capsys):
  with pytest.raises(SystemExit) as caught:
    parity.main([])
  assert caught.value.code == 2
  assert "paths" in capsys.readouterr().err
