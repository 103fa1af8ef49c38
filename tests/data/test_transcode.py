import io

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from tests.data.small_videos import write_rotated
from tests.data.videos import make
from vidjax.data import transcode as transcode_lib
from vidjax.data.decode import Video, VideoError, decode
from vidjax.data.transcode import Encoding, TranscodeError, transcode

SMALL = Encoding(short_side=48)


def test_size():
  encoding = Encoding(short_side=256)
  assert encoding.size(720, 1280) == (256, 456)  # 455.1 to even
  assert encoding.size(1280, 720) == (456, 256)
  assert encoding.size(240, 320) == (240, 320)  # never larger
  assert encoding.size(75, 101) == (76, 100)  # even


def test_result(tmp_path):
  path = make(tmp_path / "v.mkv", options={"bf": "3", "g": "250"})
  video = transcode(path, SMALL)
  assert (video.frames, video.height, video.width) == (60, 48, 72)
  assert video.codec == "h264"
  assert video.fps == pytest.approx(25)
  with Video("copy", video.content) as copy:
    assert copy.frames == 60
    assert np.diff(copy.keyframes).max() <= 12
    got = copy.read(range(60))
  want = decode(
    path,
    range(60),
    transform=lambda x: cv2.resize(x, (72, 48), interpolation=cv2.INTER_AREA),
  )
  error = np.square(got[:, None].astype(np.float32) - want).mean((2, 3, 4))
  np.testing.assert_array_equal(error.argmin(1), range(60))
  assert np.all(10 * np.log10(255**2 / error.diagonal()) > 20)  # noisy scenes
  with av.open(io.BytesIO(video.content)) as container:
    stream = container.streams.video[0]
    assert not stream.codec_context.has_b_frames
    assert len(container.streams) == 1
    types = {
      PictureType(frame.pict_type).name for frame in container.decode(stream)
    }
    assert types == {"I", "P"}


def test_result_is_always_the_same(tmp_path):
  """What x264 makes of small frames varied, in one of fifty runs."""
  path = make(tmp_path / "v.mp4", n=12, size=(48, 32))
  results = {transcode(path, Encoding()).content for _ in range(150)}
  assert len(results) == 1


def test_times_are_kept(tmp_path):
  steps = np.random.default_rng(0).integers(10, 120, 30)
  times = np.cumsum(steps)
  path = make(tmp_path / "v.mp4", n=30, times=times.tolist())
  video = transcode(path, SMALL)
  with Video("copy", video.content) as copy:
    seconds = [copy.seconds(frame) for frame in copy.walk()]
  np.testing.assert_allclose(seconds, (times - times[0]) / 600, atol=2e-3)


def test_part(tmp_path):
  path = make(tmp_path / "v.mp4", options={"g": "12"})
  video = transcode(path, SMALL, lambda frames: (frames - 40, 25))
  assert video.frames == 25
  sketch = transcode_lib._sketch
  with Video("copy", video.content) as copy:
    got = copy.read(range(25), sketch)
  want = decode(path, range(20, 45), transform=sketch)
  assert np.abs(got.astype(int) - want).mean((1, 2, 3)).max() < 4


def test_turned_video_stands_upright(tmp_path):
  path = write_rotated(make(tmp_path / "a.mp4", n=5), tmp_path / "b.mp4", 90)
  video = transcode(path, Encoding())
  assert (video.height, video.width) == (96, 64)
  with Video("copy", video.content) as copy:
    got = copy.read([4])
  error = np.abs(got.astype(int) - decode(path, [4])).mean()
  assert error < 6


def test_folder_of_images(tmp_path):
  images = decode(make(tmp_path / "v.mp4", n=6), range(6))
  folder = tmp_path / "frames"
  folder.mkdir()
  for number, image in enumerate(images, 1):
    name = str(folder / f"{number:05d}.png")
    assert cv2.imwrite(name, image[:, :, ::-1])
  video = transcode(folder, SMALL)
  assert (video.frames, video.fps) == (6, pytest.approx(12))


@pytest.mark.parametrize(
  "name",
  ["bt709_full_range.mp4", "h264_10bits.mp4", "odd_size.mp4", "vp9.webm"],
)
def test_real_videos_look_the_same(shared, name):
  path = shared / "videos" / name
  video = transcode(path, Encoding(short_side=128))
  sketch = transcode_lib._sketch
  with Video("copy", video.content) as copy:
    got = copy.read(range(video.frames), sketch)
  want = decode(path, range(video.frames), transform=sketch)
  assert np.abs(got.astype(int) - want).mean((1, 2, 3)).max() < 3


def test_bad_video(shared):
  with pytest.raises(VideoError) as caught:
    transcode(shared / "videos" / "truncated.mp4", SMALL)
  assert caught.value.reason == "truncated"


def test_another_result_is_found(tmp_path, monkeypatch):
  path = make(tmp_path / "v.mp4", n=12)
  other = transcode(make(tmp_path / "w.mp4", n=30), SMALL).content
  write = transcode_lib._write

  def lose(file, frames, encoding):
    result = write(io.BytesIO(), frames, encoding)
    file.write(other)
    return result

  monkeypatch.setattr(transcode_lib, "_write", lose)
  with pytest.raises(TranscodeError, match=r"12 frames .* but 30 can be read"):
    transcode(path, SMALL)

  def darken(file, frames, encoding):
    seconds, sketches = write(file, frames, encoding)
    return seconds, [sketches[0], *(x // 2 for x in sketches[1:])]

  monkeypatch.setattr(transcode_lib, "_write", darken)
  with pytest.raises(TranscodeError, match=r"frame 1 differs by .* grey"):
    transcode(path, SMALL)


def test_without_x264(tmp_path, monkeypatch):
  path = make(tmp_path / "v.mp4", n=12)
  monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
  video = transcode(path, SMALL)
  assert (video.codec, video.frames) == ("mpeg4", 12)
