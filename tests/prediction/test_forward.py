import jax
import numpy as np
import pytest

from tests.prediction.models import model_of, page
from vidjax.data.views import Views
from vidjax.nn.functional import split
from vidjax.prediction import forward as module
from vidjax.prediction.forward import forward_pass, make_forward, see_all
from vidjax.prediction.trained import Trained
from vidjax.train.inputs import normalise

SIDE, FRAMES = 32, 4


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def trained():
  return Trained(
    model_of(page()),
    labels=tuple("abcdefghijkl"),
    head_sizes=(),
    views=Views(FRAMES, SIDE, "dense", 2),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    description="tiny",
  )


@pytest.fixture(scope="module")
def videos():
  rng = np.random.default_rng(0)
  counts = [2, 0, 1, 5, 3, 1]
  return [
    (name, rng.integers(0, 256, (n, FRAMES, SIDE, SIDE, 3), np.uint8))
    for name, n in zip("uvwxyz", counts, strict=True)
  ]


@pytest.fixture(scope="module")
def wanted(trained, videos):
  """Probabilities and features of each view of each video, one at a time."""
  run = jax.jit(lambda x: (trained.model(x), trained.model.features(x)))
  found = {}
  for name, views in videos:
    rows = [
      run(normalise(jax.numpy.asarray(v[None]), trained.mean, trained.std))
      for v in views
    ]
    logits = [np.asarray(row[0][0], np.float64) for row in rows]
    powers = [np.exp(x - x.max()) for x in logits]
    found[name] = (
      [x / x.sum() for x in powers],
      [np.asarray(row[1][0]) for row in rows],
    )
  return found


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_views_fill_batches_across_videos(
  trained, videos, wanted, batch_size, monkeypatch
):
  traces, shapes = [], []

  def spy(video, mean, std):
    traces.append(video.shape)
    return normalise(video, mean, std)

  monkeypatch.setattr(module, "normalise", spy)
  run = make_forward(trained, features=True)

  def counted(views):
    shapes.append(views.shape)
    return run(views)

  found = list(see_all(counted, videos, batch_size))
  assert traces == [(batch_size, FRAMES, SIDE, SIDE, 3)]  # one compilation
  assert len(shapes) == -(-12 // batch_size)
  assert [seen.of for seen in found] == list("uvwxyz")
  for seen in found:
    scores, features = wanted[seen.of]
    if not scores:
      assert seen.probabilities.size == 0
      assert seen.features is None
      continue
    np.testing.assert_allclose(
      seen.probabilities, np.mean(scores, axis=0), atol=1e-6
    )
    assert seen.features is not None
    np.testing.assert_allclose(seen.features, features, atol=1e-4)


def test_results_come_before_the_next_videos_are_all_read(trained, videos):
  read = []

  def reading():
    for name, views in videos:
      read.append(name)
      yield name, views

  found = see_all(make_forward(trained, features=False), reading(), 2)
  assert next(found).of == "u"
  assert len(read) < 5
  assert next(found).features is None
  found.close()


def test_features_cost_no_second_pass(trained):
  shape = jax.ShapeDtypeStruct((1, FRAMES, SIDE, SIDE, 3), "uint8")
  definition, params, stats = split(trained.model)
  cost = []
  for features in (False, True):
    run = jax.jit(forward_pass(definition, trained, features=features))
    analysis = run.lower(params, stats, shape).compile().cost_analysis()
    cost.append(analysis["flops"])
  assert cost[1] < 1.05 * cost[0]


def test_every_head_has_its_softmax(trained):
  two = Trained(
    trained.model,
    trained.labels,
    (5, 7),
    trained.views,
    trained.mean,
    trained.std,
    "two",
  )
  video = np.random.default_rng(1).integers(
    0, 256, (2, FRAMES, SIDE, SIDE, 3), np.uint8
  )
  whole, _ = make_forward(trained, features=False)(video)
  parts, _ = make_forward(two, features=False)(video)
  for one, part in ((whole[:, :5], parts[:, :5]), (whole[:, 5:], parts[:, 5:])):
    np.testing.assert_allclose(
      part, one / one.sum(axis=1, keepdims=True), rtol=1e-4
    )
