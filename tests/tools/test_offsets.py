import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from vidjax.models.resnet import ResNet
from vidjax.tools.offsets import draw, main, stage_offsets

TINY = {"image_size": 32, "dim": 4, "depths": (1, 2, 2, 1)}


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def test_offsets_are_those_that_the_block_uses(monkeypatch):
  model = oracles.build(ResNet, 5, scale=0.1, **TINY)
  video = jnp.asarray(oracles.normal(1, 12, 32, 32, 3))
  attention = model.stages[2][1].temporal.attention
  seen = []
  predict = attention.offset.__call__
  monkeypatch.setattr(
    type(attention.offset),
    "__call__",
    lambda self, x: seen.append((self, x)) or type(self).predict(self, x),
  )
  monkeypatch.setattr(
    type(attention.offset), "predict", predict.__func__, raising=False
  )
  found = stage_offsets(model, video, 2)
  assert found.shape == (1, 2, 2, 2, 9, 2)
  assert seen[-1][0] is attention.offset
  np.testing.assert_array_equal(found, predict(seen[-1][1]))
  seen.clear()
  model(video)
  x = next(x for module, x in seen if module is attention.offset)
  np.testing.assert_allclose(found, predict(x), atol=1e-5)
  with pytest.raises(ValueError, match="stage 0 of the model predicts no"):
    stage_offsets(model, video, 0)


def test_arrows():
  frames = np.zeros((1, 2, 8, 16, 3), np.uint8)
  moves = np.zeros((1, 2, 4, 2), np.float32)
  moves[0, 1, 2] = [-0.5, 0.25]  # up by 2 pixels, right by 1
  figure = draw(frames, moves)
  arrows = figure.axes[1].collections[0]
  assert (arrows.U[1 * 4 + 2], arrows.V[1 * 4 + 2]) == (1, -2)
  np.testing.assert_allclose(
    arrows.XY[1 * 4 + 2], [2.5 * 4 - 0.5, 1.5 * 4 - 0.5]
  )
  assert not np.delete(arrows.U, 6).any()


def test_a_folder_that_is_no_run(tmp_path, capsys):
  assert main([str(tmp_path), str(tmp_path / "x.png")]) == 1
  assert "is not the work directory of a run" in capsys.readouterr().err
