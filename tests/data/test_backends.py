import numpy as np
import pytest

from tests.data.videos import make
from vidjax.data import backends
from vidjax.data.backends import BACKENDS, open_video
from vidjax.data.decode import Video, VideoError, decode


def opened(path, name):
  try:
    return open_video(path, name)
  except ModuleNotFoundError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("name", BACKENDS)
def test_frames_are_ours(tmp_path, name):
  path = make(tmp_path / "v.mp4", options={"g": "12", "bf": "2"})
  indices = [31, 4, 4, 59, 16]
  for transform in (None, lambda image: image[:20, 8:40]):
    with opened(path, name) as video:
      assert video.frames == 60
      got = video.read(np.array(indices), transform)
    want = decode(path, indices, transform=transform)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", BACKENDS)
def test_wrong_requests(tmp_path, name):
  with (
    opened(make(tmp_path / "v.mp4", n=5), name) as video,
    pytest.raises(IndexError, match=r"frame 5 .* has 5 frames"),
  ):
    video.read([2, 5])
  with (
    opened(make(tmp_path / "v.mp4", n=5), name) as video,
    pytest.raises(ValueError, match="were asked for: give some"),
  ):
    video.read([])


@pytest.mark.parametrize("name", BACKENDS)
def test_bad_files(tmp_path, name):
  (tmp_path / "text.mp4").write_text("no video " * 50)
  for file, reasons in (
    ("gone.mp4", {"missing"}),
    ("text.mp4", {"not_a_video", "corrupt", "no_frames"}),
  ):
    with pytest.raises(VideoError) as caught, opened(tmp_path / file, name):
      pass
    assert caught.value.reason in reasons


def test_unknown_decoder():
  message = "the decoder is 'ffmpeg'; use one of 'planned', 'decord'"
  with pytest.raises(ValueError, match=message):
    open_video("v.mp4", "ffmpeg")


def test_missing_package(monkeypatch):
  def fail(name):
    raise ImportError(f"No module named {name!r}\nand more")

  monkeypatch.setattr(backends.importlib, "import_module", fail)
  message = (
    r"the decoder 'decord' cannot be loaded \(No module named 'decord'\): "
    "install the package decord, or choose 'planned'"
  )
  with pytest.raises(ModuleNotFoundError, match=message):
    open_video("v.mp4", "decord")
  assert isinstance(open_video("v.mp4"), Video)
