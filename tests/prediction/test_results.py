import json

import numpy as np
import pytest

from tests.prediction.models import prediction
from vidjax.prediction.results import Guess

WINDOWS = [
  (0.0, 2.0, [0.5, 0.25, 0.25]),
  (1.0, 3.0, [0.125, 0.125, 0.75]),
  (4.0, 6.0, [0.0, 1.0, 0.0]),
]


def test_the_best_classes_in_order():
  one = prediction()
  best = [(g.label, g.index) for g in one.top(2)]
  assert best == [("b", 1), ("c", 2)]
  assert one.top(1)[0].probability == pytest.approx(0.5)
  ties = prediction(windows=[(0.0, 1.0, [0.25, 0.25, 0.5])])
  assert [g.label for g in ties.top(3)] == ["c", "a", "b"]


def test_of_every_head():
  labels = ("verb: take", "verb: put", "noun: cup", "noun: jar", "noun: pan")
  scores = [0.4, 0.6, 0.1, 0.2, 0.7]
  one = prediction(windows=[(0.0, 1.0, scores)], labels=labels, heads=(2, 3))
  assert [g.label for g in one.top(1)] == ["verb: put", "noun: pan"]
  both = [g.label for g in one.top(3)]
  assert both == [labels[i] for i in (1, 0, 4, 3, 2)]
  with pytest.raises(ValueError, match="top is 4, but the model has 3 classes"):
    one.top(4)


@pytest.mark.parametrize("k", [0, 4])
def test_how_many_there_may_be(k):
  with pytest.raises(ValueError, match=f"top is {k}, but the model has 3"):
    prediction().top(k)


def test_a_moment_belongs_to_the_nearest_window():
  timeline = prediction(windows=WINDOWS).timeline
  assert timeline is not None
  assert timeline.edges.tolist() == [0.0, 1.5, 3.5, 6.0]
  middles = np.array([1.0, 2.0, 5.0])
  for moment in np.arange(-1, 8, 0.37):
    assert timeline.at(float(moment)) == np.abs(middles - moment).argmin()
  alone = prediction(windows=WINDOWS[:1]).timeline
  assert alone is not None
  assert alone.edges.tolist() == [0.0, 2.0]
  assert [alone.at(x) for x in (-1.0, 1.0, 9.0)] == [0, 0, 0]


def test_a_window_has_its_own_best():
  one = prediction(windows=WINDOWS)
  assert one.top(1, 1) == [Guess("c", 2, 0.75)]
  with pytest.raises(ValueError, match="was predicted as a whole"):
    prediction().top(1, 0)


def test_json():
  content = json.loads(json.dumps(prediction(windows=WINDOWS).to_json(1)))
  assert content == {
    "path": "a.mp4",
    "frames": 24,
    "seconds": 2.0,
    "top": [{"label": "a", "index": 0, "probability": 0.5}],
    "probabilities": [0.5, 0.25, 0.25],
    "windows": [
      {
        "start": start,
        "stop": stop,
        "top": [{"label": "abc"[i], "index": i, "probability": scores[i]}],
        "probabilities": scores,
      }
      for (start, stop, scores), i in zip(WINDOWS, (0, 2, 1), strict=True)
    ],
  }
  assert "windows" not in prediction().to_json(1)
