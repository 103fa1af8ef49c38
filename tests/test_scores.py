"""Scores of several models: written, read and combined."""

import dataclasses
import pathlib

import numpy as np
import pytest

from vidjax.data.manifest import Clip, Manifest
from vidjax.scores import (
  Scores,
  head_accuracies,
  head_scores,
  mean_scores,
  read_scores,
  top_k,
  top_pairs,
  write_scores,
)
from vidjax.tools import combine


def some(seed: int, videos: int = 7, classes: int = 6) -> Scores:
  rng = np.random.default_rng(seed)
  values = rng.dirichlet(np.ones(classes), videos).astype(np.float32)
  return Scores(
    ids=tuple(f"v{i}" for i in range(videos)),
    labels=np.random.default_rng(99).integers(0, classes, videos),
    scores=values,
    classes=tuple(f"c{i}" for i in range(classes)),
  )


def write(folder: pathlib.Path, scores: Scores) -> pathlib.Path:
  folder.mkdir()
  write_scores(folder / "scores.npz", scores)
  return folder


def test_what_is_written_is_read(tmp_path):
  want = some(0)
  found = read_scores(write(tmp_path / "run", want))
  assert (found.ids, found.classes) == (want.ids, want.classes)
  np.testing.assert_array_equal(found.labels, want.labels)
  np.testing.assert_array_equal(found.scores, want.scores)
  assert not list(tmp_path.glob("run/*.part"))


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_is_the_sorted_place(k):
  x = some(1)
  want = [
    label in np.argsort(-row)[:k]
    for row, label in zip(x.scores, x.labels, strict=True)
  ]
  assert top_k(x.scores, x.labels, k).tolist() == want
  ties = np.zeros((2, 3), np.float32)
  assert top_k(ties, np.array([0, 1]), 1).tolist() == [True, False]
  assert not top_k(np.full((1, 3), np.nan, np.float32), np.array([0]), 3).any()


def test_the_mean_of_models():
  a, b = some(0), some(1)
  joined = mean_scores([a, b])
  np.testing.assert_allclose(joined.scores, (a.scores + b.scores) / 2)


def test_pairs_are_ranked_by_their_product():
  verbs, nouns = some(2), some(3, classes=4)
  labels = zip(verbs.labels, nouns.labels, strict=True)
  want = []
  for v, n, (verb, noun) in zip(
    verbs.scores, nouns.scores, labels, strict=True
  ):
    products = np.outer(v, n)
    order = np.argsort(-products.ravel())[:5]
    want.append(verb * len(n) + noun in order)
  assert top_pairs(verbs, nouns, 5).tolist() == want
  assert any(want)
  assert not all(want)


def test_both_classes_of_the_best_pair_are_the_best():
  verbs, nouns = some(2), some(3)
  best = top_pairs(verbs, nouns, 1)
  both = top_k(verbs.scores, verbs.labels, 1)
  both &= top_k(nouns.scores, nouns.labels, 1)
  np.testing.assert_array_equal(best, both)


def test_the_command(tmp_path, capsys):
  a, b = (write(tmp_path / str(seed), some(seed)) for seed in (0, 1))
  assert combine.main([str(a), str(b)]) == 0
  lines = capsys.readouterr().out.splitlines()
  joined = mean_scores([some(0), some(1)])
  share = 100 * top_k(joined.scores, joined.labels, 1).mean()
  assert lines[-1].split()[:4] == ["together", "top-1", f"{share:.2f}", "%"]
  assert combine.main(["--pairs", str(a), str(b)]) == 0
  assert capsys.readouterr().out.splitlines()[-1].startswith("pairs ")


def test_what_cannot_be_combined(tmp_path, capsys):
  a = write(tmp_path / "a", some(0))
  b = write(tmp_path / "b", some(0, videos=5))
  c = write(tmp_path / "c", some(0, classes=8))
  for others, message in (
    ([b], "other videos or in another order (7 and 5 videos"),
    ([c], "has 6 classes and another 8"),
    ([tmp_path / "none"], "cannot be read"),
  ):
    assert combine.main([str(a), *map(str, others)]) == 1
    assert message in capsys.readouterr().err


def test_accuracies_of_two_heads():
  verbs, nouns = some(2), some(3, classes=4)
  clips = tuple(
    Clip(name, "x.mp4", int(v), labels=(int(v), int(n)))
    for name, v, n in zip(verbs.ids, verbs.labels, nouns.labels, strict=True)
  )
  manifest = Manifest(
    pathlib.Path("d"),
    "val",
    "d",
    clips,
    verbs.classes,
    tuple(range(6)),
    tuple(range(6)),
    heads={"verb": verbs.classes, "noun": nouns.classes},
  )
  both = np.concatenate([verbs.scores, nouns.scores], axis=1)
  found = head_accuracies(both, manifest)
  assert found == {
    "verb/top1": top_k(verbs.scores, verbs.labels, 1).mean(),
    "verb/top5": top_k(verbs.scores, verbs.labels, 5).mean(),
    "noun/top1": top_k(nouns.scores, nouns.labels, 1).mean(),
    "noun/top5": 1.0,
    "action/top1": top_pairs(verbs, nouns, 1).mean(),
    "action/top5": top_pairs(verbs, nouns, 5).mean(),
  }
  assert list(head_scores(verbs.scores, manifest)) == ["verb"]
  with pytest.raises(ValueError, match="has 1 heads"):
    head_accuracies(both, dataclasses.replace(manifest, heads={}))
