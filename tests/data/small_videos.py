"""Small videos for tests, as files, folders of images and bytes."""

import io
import pathlib

import av
import cv2
import numpy as np


def pictures(n, height=24, width=32, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (n, 3, 4, 3), np.uint8)
  return [
    np.asarray(cv2.resize(image, (width, height), interpolation=0))
    for image in coarse
  ]


def _encode(container, images, codec, rate, options):
  stream = container.add_stream(codec, rate, options=options)
  stream.height, stream.width = images[0].shape[:2]
  stream.pix_fmt = "yuv420p"
  for image in images:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    container.mux(stream.encode(frame))
  container.mux(stream.encode())


def write_video(path, n=6, *, height=24, width=32, gop=3):
  """Writes an H.264 file of 12 frames a second."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  x264 = {"g": str(gop), "sc_threshold": "0", "bf": "0", "threads": "1"}
  with av.open(str(path), "w") as container:
    _encode(container, pictures(n, height, width), "libx264", 12, x264)
  return path


def video_bytes(n=6):
  """An mp4 file in memory."""
  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as container:
    _encode(container, pictures(n), "mpeg4", 12, {})
  return file.getvalue()


def write_rotated(source, path, turn=90):
  """Copies a file's packets and asks players to turn it.

  A second encoding would not do: x264 gives other pixels now and then.
  """
  with av.open(str(source)) as old, av.open(str(path), "w") as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    stream.set_display_rotation(turn)
    for packet in old.demux(video=0):
      if packet.size:
        packet.stream = stream
        new.mux(packet)
  return pathlib.Path(path)


def encode_image(image, suffix=".png"):
  _, data = cv2.imencode(suffix, image[:, :, ::-1])
  return data.tobytes()


def write_images(folder, n=5, template="{:05d}.png", start=1):
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  images = pictures(n)
  for number, image in enumerate(images, start):
    (folder / template.format(number)).write_bytes(encode_image(image))
  return np.stack(images)
