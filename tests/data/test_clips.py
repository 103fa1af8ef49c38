import numpy as np
import pytest

from tests.data.small_videos import (
  encode_image,
  pictures,
  video_bytes,
  write_images,
  write_video,
)
from tests.data.test_records import example, write_shard
from vidjax.data.clips import frame_files, open_clip
from vidjax.data.decode import VideoError, decode
from vidjax.data.records import Record, pack_record


def test_a_file(tmp_path):
  path = write_video(tmp_path / "a.mp4")
  with open_clip(path) as clip:
    assert clip.frames == 6
    np.testing.assert_array_equal(clip.read([4, 0]), decode(path, [4, 0]))


@pytest.mark.parametrize("template", ["{:05d}.png", "img_{}.png"])
@pytest.mark.parametrize("start", [0, 1])
def test_a_folder_of_images(tmp_path, template, start):
  want = write_images(tmp_path / "v", 12, template, start)
  (tmp_path / "v" / "notes.txt").write_text("x")
  with open_clip(tmp_path / "v") as clip:
    assert clip.frames == 12
    np.testing.assert_array_equal(clip.read(range(12)), want)
    np.testing.assert_array_equal(clip.read([10, 2, 2]), want[[10, 2, 2]])
    small = clip.read([1], lambda frame: frame[:5, :7])
    np.testing.assert_array_equal(small, want[1:2, :5, :7])
    info = clip.info
    assert (info.frames, info.fps) == (12, 0.0)
    assert (info.width, info.height, info.codec) == (32, 24, "png")
    with pytest.raises(IndexError, match="it has 12 frames, ask for 0 to 11"):
      clip.read([12])
    with pytest.raises(ValueError, match=r"no frames of .* were asked for"):
      clip.read([])


def test_frames_beside_optical_flow(tmp_path):
  for name in ("flow_x_00001.jpg", "flow_x_00002.jpg", "img_00001.jpg"):
    (tmp_path / name).touch()
  assert frame_files(tmp_path) == ["img_00001.jpg"]


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    ({}, "no_frames"),
    ({"1.png": b""}, "corrupt"),
    ({"1.png": b"x"}, "corrupt"),
  ],
)
def test_bad_folders(tmp_path, content, reason):
  for name, data in content.items():
    (tmp_path / name).write_bytes(data)
  with pytest.raises(VideoError) as caught, open_clip(tmp_path) as clip:
    clip.read([0])
  assert caught.value.reason == reason


def test_images_of_different_sizes(tmp_path):
  for number, side in enumerate((24, 26)):
    (image,) = pictures(1, side)
    (tmp_path / f"{number}.png").write_bytes(encode_image(image))
  with pytest.raises(VideoError), open_clip(tmp_path) as clip:
    clip.read([0, 1])


def test_records(tmp_path):
  video = video_bytes()
  images = pictures(3)
  data = [encode_image(image) for image in images]
  shard = write_shard(
    tmp_path / "train.array_record",
    [
      pack_record(Record("a", (0,), video=video)),
      pack_record(Record("b", (0,), frames=data)),
      example(label=[1], video=data),
      pack_record(Record("c", (0,), video=b"no video")),
      b"\x01",
    ],
  )
  (tmp_path / "a.mp4").write_bytes(video)
  want = decode(tmp_path / "a.mp4", [5, 1])
  with open_clip(f"{shard}#0") as clip:
    assert clip.frames == 6
    np.testing.assert_array_equal(clip.read([5, 1]), want)
  for number in (1, 2):
    with open_clip(f"{shard}#{number}") as clip:
      np.testing.assert_array_equal(clip.read(range(3)), np.stack(images))
  for number, reason in {3: "not_a_video", 4: "corrupt", 9: "corrupt"}.items():
    with pytest.raises(VideoError) as caught, open_clip(f"{shard}#{number}"):
      pass
    assert caught.value.reason == reason
    assert str(caught.value.path) == f"{shard}#{number}"


def test_what_is_not_there(tmp_path):
  for name in ("gone.mp4", "gone.array_record#0"):
    with pytest.raises(VideoError) as caught, open_clip(tmp_path / name):
      pass
    assert caught.value.reason == "missing"
