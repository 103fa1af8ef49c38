"""Small data sets and configurations for the tests of the pipeline."""

import json
import types

import av
import numpy as np

from vidjax.data.manifest import load_manifest

CLASSES = 20
FRAMES = 6
WIDTH, HEIGHT = 48, 32


def config(**changes):
  base = {
    "batch_size": 4,
    "frames": 3,
    "image_size": 28,
    "sampling": "segments",
    "stride": 2,
    "crop": "shift",
    "jitter": (28, 34),
    "resize_side": 32,
    "area": (0.08, 1),
    "segments": 1,
    "flip": 0.0,
    "no_flip_labels": (),
    "auto_augment": "none",
    "erase": 0.0,
    "decoder": "planned",
    "threads": 2,
    "prefetch": 3,
    "max_bad_share": 0.01,
  }
  return types.SimpleNamespace(**base | changes)


def write_data(root, count=10, bad=(), folder="good"):
  """Videos whose left half is bright; each has its own grey, and its label."""
  (root / folder).mkdir(parents=True)
  lines = []
  for i in range(count):
    path = root / folder / f"{i}.mp4"
    if i in bad:
      path.write_bytes(b"" if i % 2 else b"no video" * 9)
    else:
      with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(FRAMES):
          image = np.full((HEIGHT, WIDTH, 3), 10 + 8 * i + t, np.uint8)
          image[:, : WIDTH // 2] += 60
          frame = av.VideoFrame.from_ndarray(image, format="rgb24")
          container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    lines.append({"id": f"v{i}", "path": f"{folder}/{i}.mp4", "label": i})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (root / "train.jsonl").write_text(text)
  flip = {str(i): i ^ 1 for i in range(4)}
  labels = {"classes": [str(i) for i in range(CLASSES)], "flip": flip}
  (root / "labels.json").write_text(json.dumps(labels))
  return load_manifest(root, "train")


def take(batches, count):
  with batches as stream:
    return [next(stream) for _ in range(count)]


def assert_same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)
