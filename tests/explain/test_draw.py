import itertools

import av
import numpy as np
import pytest

from vidjax.explain.draw import INK, Row, Sheet, contact_sheet, film


def sheet(frames=4, maps=2, mark=None):
  clip = np.full((frames, 8, 12, 3), 255, np.uint8)
  shares = np.zeros((maps, 2, 3))
  shares[1, 0, 2] = 0.5
  shares[0, 1, 0] = 0.25
  reach = np.zeros(shares.shape, bool)
  reach[1, 0] = True
  rows = [Row("head 0", shares, [f"{i} %" for i in range(maps)], reach)]
  return Sheet("title", clip, rows, "share", mark=mark, grid=(2, 3))


def test_cells_are_inked_where_their_shares_are():
  figure = contact_sheet(sheet(mark=(1, (1, 2))))
  frame, other, first, second = figure.axes[:4]
  titles = [frame.get_title(), other.get_title()]
  assert titles == ["frames 0 to 1", "frames 2 to 3"]
  image = first.images[0].get_array()
  expected = np.ones((8, 12, 3))
  expected[4:, :4] = INK(0.5)[:3]
  np.testing.assert_allclose(image, expected, atol=0.01)
  image = second.images[0].get_array()
  np.testing.assert_allclose(image[0, 11], INK(1.0)[:3], atol=0.01)
  np.testing.assert_allclose(image[0, 7], 1, atol=0.01)
  assert [text.get_text() for text in second.texts] == ["1 %"]
  # The mark is on the frame that asks; outlines where a share can be.
  boxes = [patch.get_bbox().bounds for patch in other.patches]
  assert boxes == [(8, 4, 4, 4)] * 2
  assert not frame.patches
  assert [p.get_bbox().bounds[:2] for p in second.patches] == [
    (0, 0),
    (4, 0),
    (8, 0),
  ]
  bar = figure.axes[-1]
  assert bar.get_ylim() == (0, 0.5)


def test_the_dark_end_of_the_scale_is_the_largest_share():
  brightness = INK(np.linspace(0, 1, 9))[:, :3] @ [0.3, 0.6, 0.1]
  assert (np.diff(brightness) < 0).all()
  assert sheet().most == 0.5


def test_long_clips_have_several_rows():
  figure = contact_sheet(sheet(20, 10))
  shown = [axes for axes in figure.axes if axes.images]
  assert len(shown) == 20


@pytest.mark.parametrize("mark", [None, (0, None)])
def test_a_film_has_every_frame(tmp_path, mark):
  path = tmp_path / "film.mp4"
  film(sheet(5, 2, mark), path)
  with av.open(path) as container:
    frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
  assert len(frames) == 5
  assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
  # The map changes with the fourth frame: 5 frames, 2 maps.
  changes = [
    abs(a.astype(int) - b).max() for a, b in itertools.pairwise(frames)
  ]
  assert changes[2] > 100
  assert max(changes[:2]) < 60
