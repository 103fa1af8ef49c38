"""Clips with several labels: cut apart, and trained on together."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.xvit_motion import get_config
from tests import oracles
from tests.data.small_videos import write_video
from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.source import open_splits
from vidjax.scores import read_scores, top_k
from vidjax.train import loop
from vidjax.train.label_heads import split_labels, split_logits, split_targets
from vidjax.train.losses import cross_entropy

SIZES = (3, 4)


def test_labels_of_a_combination_are_its_parts():
  verbs, nouns, tools = np.indices((3, 4, 2)).reshape(3, -1)
  joined = np.ravel_multi_index((verbs, nouns, tools), (3, 4, 2))
  parts = split_labels(jax.numpy.asarray(joined), (3, 4, 2))
  for found, wanted in zip(parts, (verbs, nouns, tools), strict=True):
    np.testing.assert_array_equal(found, wanted)


def test_logits_lie_side_by_side():
  logits = jax.numpy.asarray(oracles.normal(2, 5, 7))
  verbs, nouns = split_logits(logits, SIZES)
  np.testing.assert_array_equal(verbs, logits[..., :3])
  np.testing.assert_array_equal(nouns, logits[..., 3:])
  assert split_logits(logits, ())[0] is logits
  with pytest.raises(ValueError, match=r"set model\.num_classes to 9"):
    split_logits(logits, (4, 5))


def test_mixed_targets_are_cut_too():
  lam = jax.numpy.full(2, 0.3)
  first, second = jax.numpy.array([5, 11]), jax.numpy.array([0, 6])
  (v1, v2, a), (n1, n2, b) = split_targets((first, second, lam), SIZES)
  assert (v1.tolist(), v2.tolist()) == ([1, 2], [0, 1])
  assert (n1.tolist(), n2.tolist()) == ([1, 3], [0, 2])
  assert a is b is lam


def test_a_loss_of_parts_has_no_gradient_across_heads():
  logits = jax.numpy.asarray(oracles.normal(2, 7))

  def loss(logits):
    verbs, _ = split_logits(logits, SIZES)
    return cross_entropy(verbs, jax.numpy.array([0, 2])).sum()

  assert not np.any(jax.grad(loss)(logits)[:, 3:])
  assert np.all(jax.grad(loss)(logits)[:, :3])


@pytest.fixture
def kitchen(tmp_path):
  """Twelve videos with a verb and a noun each."""
  root = tmp_path / "kitchen"
  heads = {"verb": ["take", "put", "cut"], "noun": ["a", "b", "c", "d"]}
  (root / "videos").mkdir(parents=True)
  (root / "labels.json").write_text(
    json.dumps({"name": "kitchen", "heads": heads})
  )
  lines = []
  for i in range(12):
    write_video(root / f"{i}.mp4", 12)
    lines.append({"id": f"v{i}", "path": f"{i}.mp4", "labels": [i % 3, i % 4]})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  for split in ("train", "val"):
    (root / f"{split}.jsonl").write_text(text)
  return root


def page(root):
  config = get_config("smoke")
  config.data.update({"source": "manifest", "root": str(root), "head": "all"})
  config.data.head_sizes = SIZES
  config.data.batch_size = config.eval.batch_size = 4
  config.model.num_classes = sum(SIZES)
  return config


def test_joined_labels(kitchen):
  manifest = load_manifest(kitchen, "train")
  manifest = dataclasses.replace(manifest, flip=(1, 0, 2))
  joined = manifest.joined()
  assert [c.label for c in joined.clips] == [
    4 * verb + noun for verb, noun in (c.labels for c in manifest.clips)
  ]
  # "take" and "put" are each other's mirror image, nouns their own.
  assert joined.flip == (4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11)


def test_sizes_that_do_not_fit(kitchen, tmp_path):
  config = page(kitchen)
  config.data.head_sizes = (3, 5)
  message = r"\(verb, noun\) have \(3, 4\) classes.*num_classes=7"
  with pytest.raises(ManifestError, match=message):
    open_splits(config, tmp_path)


@pytest.mark.slow
def test_a_run_with_two_heads(kitchen, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  config = page(kitchen)
  config.train.update({"mixup_alpha": 0.4, "mixup_group": 4})
  summary = loop.train(config, tmp_path / "run")
  assert summary["steps"] == 2
  verbs = read_scores(tmp_path / "run")
  nouns = read_scores(tmp_path / "run" / "scores_noun.npz")
  assert (verbs.classes, nouns.classes) == (
    ("take", "put", "cut"),
    ("a", "b", "c", "d"),
  )
  for part, sizes in ((verbs, 3), (nouns, 4)):
    assert part.labels.tolist() == [i % sizes for i in range(12)]
    np.testing.assert_allclose(part.scores.sum(axis=1), 1, rtol=1e-5)
  both = top_k(verbs.scores, verbs.labels, 1)
  assert summary["eval/verb/top1"] == both.mean()
  both &= top_k(nouns.scores, nouns.labels, 1)
  assert summary["eval/action/top1"] == both.mean()
  assert (tmp_path / "run" / "report.html").exists()
