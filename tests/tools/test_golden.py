import json

import numpy as np
import pytest

from vidjax.tools.golden import (
  Result,
  find_cases,
  gradient_errors,
  largest_error,
  logit_scale,
  read_case,
  relative_error,
)

META = {"family": "f", "case": "c", "kind": "k", "official": {"dim": 3}}


def write(path, meta=META, **arrays):
  text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
  np.savez(path, meta=text, **arrays)
  return path


def test_a_case_is_read_whole(tmp_path):
  weight, logits = np.arange(6.0).reshape(2, 3), np.float32([1, 2])
  path = write(tmp_path / "a.npz", **{"w/x/y": weight, "logits": logits})
  case = read_case(path)
  assert (case.path, case.family, case.name, case.kind) == (path, "f", "c", "k")
  assert case.official == {"dim": 3}
  assert sorted(case.arrays) == ["logits", "w/x/y"]
  np.testing.assert_array_equal(case.arrays["logits"], logits)
  assert list(case.under("w/")) == ["x/y"]
  np.testing.assert_array_equal(case.under("w/")["x/y"], weight)
  assert case.under("g/") == {}


@pytest.mark.parametrize("lacks", sorted(META))
def test_a_case_without_a_name(lacks, tmp_path):
  meta = {key: value for key, value in META.items() if key != lacks}
  path = write(tmp_path / "a.npz", meta)
  with pytest.raises(ValueError, match=rf"a\.npz is not a golden .*'{lacks}'"):
    read_case(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04cut"])
def test_a_file_that_is_no_archive(content, tmp_path):
  path = tmp_path / "a.npz"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"a\.npz is not a golden case"):
    read_case(path)


def test_a_damaged_array(tmp_path):
  path = write(tmp_path / "a.npz", logits=np.full(100, 7, np.uint8))
  content = path.read_bytes()
  path.write_bytes(content.replace(bytes([7] * 100), bytes([8] * 100)))
  with pytest.raises(ValueError, match=r"a\.npz is not a golden .*CRC"):
    read_case(path)


def test_an_archive_without_meta(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, logits=np.zeros(3))
  with pytest.raises(ValueError, match=r"is not a golden case \(.*meta"):
    read_case(path)


def test_an_array_file_is_no_case(tmp_path):
  path = tmp_path / "a.npy"
  np.save(path, np.zeros(3))
  with pytest.raises(ValueError, match="is not a golden case"):
    read_case(path)


def test_cases_are_found_below_folders_in_order(tmp_path):
  (tmp_path / "b" / "c").mkdir(parents=True)
  for name in ("b/2.npz", "b/c/1.npz", "a.npz", "b/notes.txt"):
    (tmp_path / name).touch()
  paths = [str(tmp_path / "b"), str(tmp_path / "a.npz")]
  expected = ["b/2.npz", "b/c/1.npz", "a.npz"]
  assert list(find_cases(paths)) == [tmp_path / name for name in expected]


def test_a_missing_path_and_an_empty_folder(tmp_path):
  for path in (tmp_path / "none", tmp_path):
    with pytest.raises(ValueError, match=f"no golden case at {path};"):
      list(find_cases([str(path)]))


def test_errors():
  theirs = np.float32([[1, -4], [0, 2]])
  ours = theirs + np.float32([[0, 0.5], [-0.25, 0]])
  assert largest_error(ours, theirs) == 0.5
  assert relative_error(ours, theirs) == 0.5 / 4
  assert largest_error(theirs, theirs) == relative_error(theirs, theirs) == 0
  assert relative_error(np.float32([3e-3]), np.float32([0])) == np.float32(3e-3)
  assert largest_error(np.zeros((2, 1)), np.zeros((1, 2))) == float("inf")
  assert relative_error(np.zeros((2, 1)), np.zeros((1, 2))) == float("inf")
  assert largest_error(np.zeros((0, 2)), np.zeros((0, 2))) == 0
  assert np.isnan(largest_error(np.float32([np.nan]), np.float32([1])))


def test_errors_of_every_stored_gradient(tmp_path):
  names = ("g/a", "g/b", "g/bn.num_batches_tracked", "w/c")
  arrays = {name: np.float32([2, -4]) for name in names}
  case = read_case(write(tmp_path / "a.npz", **arrays))
  ours = {"a": np.float32([2, -4]), "b": np.float32([2, -3])}
  assert gradient_errors(case, ours) == [0, 1 / 4]
  with pytest.raises(KeyError, match="b"):
    gradient_errors(case, {"a": ours["a"]})
  assert gradient_errors(case, {"c": ours["a"]}, "w/") == [0]


def test_logits_are_compared_with_the_largest_or_one():
  assert logit_scale(np.float32([3, -5])) == 5
  assert logit_scale(np.float32([0.3])) == 1
  assert logit_scale(np.zeros(0)) == 1


@pytest.mark.parametrize(
  ("result", "passed"),
  [
    (Result(1e-5), True),
    (Result(1.1e-5), False),
    (Result(9e-5, logit_scale=10.0), True),
    (Result(0.0, gradient_error=1e-4), True),
    (Result(0.0, gradient_error=1.1e-4), False),
    (Result(float("nan")), False),
    (Result(0.0, gradient_error=float("nan")), False),
    (Result(float("inf")), False),
  ],
)
def test_tolerances(result, passed):
  assert result.passed is passed
