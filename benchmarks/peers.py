r"""Ours beside what one would take instead: timm, torchvision, transformers.

    pip install timm torch torchvision transformers
    python -m benchmarks.peers [--only=vit] [--rounds=9] [--dtype=bfloat16]

Every peer takes turns in one process with our network of the same shapes and
parameters, and with one of ours that also has a temporal operation. All have
random weights and the running statistics of batch norm; a train step is
forward, backward and SGD. PyTorch runs as its libraries come, without
torch.compile. A peer whose library is missing is left out, and said.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.side_by_side import (
  PROGRAMS,
  compile_program,
  interleave,
  keep_memory,
  ratios,
)
from vidjax.models.cost import count_parameters
from vidjax.models.registry import create_model

CLASSES = 400


@dataclasses.dataclass(frozen=True)
class Peer:
  """A network of another library, and ours to compare with it.

  Attributes:
    make: returns the module, and a function of it and a video (b c t h w).
    frames: of the video.
    same: registered name of our network of the same shapes.
    ours: of one with a temporal operation.
  """

  make: Callable[[], tuple[Any, Callable[[Any, Any], Any]]]
  frames: int
  same: str
  ours: str


@functools.cache
def _torch() -> tuple[Any, Any]:
  torch = importlib.import_module("torch")
  # torchvision's wheel on the package index does not fit PyTorch for CPUs: it
  # lacks these operators, which it declares more of and no peer needs.
  library = torch.library.Library("torchvision", "DEF")
  boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
  for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # it is there
      library.define(f"{name}{boxes}")
  return torch, library  # what it defines lives as long as it does


def _timm(name: str) -> tuple[Any, Callable[[Any, Any], Any]]:
  timm = importlib.import_module("timm")

  def every_frame(model: Any, video: Any) -> Any:
    b, c, t, h, w = video.shape
    images = video.transpose(1, 2).reshape(b * t, c, h, w)
    return model(images).reshape(b, t, -1).mean(dim=1)

  return timm.create_model(name, num_classes=CLASSES), every_frame


def _torchvision() -> tuple[Any, Callable[[Any, Any], Any]]:
  videos = importlib.import_module("torchvision.models.video")
  model = videos.swin3d_t(num_classes=CLASSES)
  return model, lambda model, video: model(video)


def _timesformer() -> tuple[Any, Callable[[Any, Any], Any]]:
  transformers = importlib.import_module("transformers")
  options = transformers.TimesformerConfig(num_labels=CLASSES, num_frames=8)
  model = transformers.TimesformerForVideoClassification(options)
  return model, lambda model, video: model(video.transpose(1, 2)).logits


PEERS = {
  "timm ViT-B/16, per frame": Peer(
    functools.partial(_timm, "vit_base_patch16_224"),
    frames=8,
    same="vit_b16_8f_k400",
    ours="xvit_b16_8f_ssv2",
  ),
  "timm Visformer-S, per frame": Peer(
    functools.partial(_timm, "visformer_small"),
    frames=8,
    same="visformer_s_2d_k400",
    ours="laps_visformer_s_k400",
  ),
  "torchvision swin3d_t": Peer(
    _torchvision, frames=32, same="video_swin_t_k400", ours="pst_t_k400"
  ),
  "transformers TimeSformer": Peer(
    _timesformer,
    frames=8,
    same="timesformer_b16_8f_k400",
    ours="xvit_b16_8f_ssv2",
  ),
}


def torch_program(
  peer: Peer, what: str, batch: int, dtype: str
) -> tuple[int, Callable[[], None]]:
  """Returns a peer's number of parameters, and a function that runs it.

  Args:
    peer: of the table.
    what: "forward", or "train step" (forward, backward, SGD).
    batch: clips.
    dtype: "float32", or "bfloat16" for PyTorch's automatic mixed precision.
  """
  torch, _ = _torch()
  device = "cuda" if torch.cuda.is_available() else "cpu"
  model, apply = peer.make()
  model = model.eval().to(device)
  video = torch.randn(batch, 3, peer.frames, 224, 224, device=device)
  mixed = functools.partial(
    torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16"
  )
  optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

  def forward() -> None:
    with torch.inference_mode(), mixed():
      apply(model, video)

  def train_step() -> None:
    optimizer.zero_grad()
    with mixed():
      loss = (apply(model, video) ** 2).mean()
    loss.backward()
    optimizer.step()

  def run() -> None:
    {"forward": forward, "train step": train_step}[what]()
    if device == "cuda":
      torch.cuda.synchronize()

  return sum(p.numel() for p in model.parameters()), run


def compare(
  name: str, peer: Peer, what: str, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Times a program of a peer and of ours in turns; prints and returns a row.

  Raises:
    ValueError: if our network has another number of parameters.
  """
  parameters, theirs = torch_program(
    peer, what, arguments.batch, arguments.dtype
  )
  runs: dict[str, Callable[[], Any]] = {name: theirs}
  shape = (arguments.batch, peer.frames, 224, 224, 3)
  video = jax.random.normal(jax.random.key(0), shape)
  for ours in (peer.same, peer.ours):
    model = create_model(ours, num_classes=CLASSES, dtype=arguments.dtype)
    if ours == peer.same and count_parameters(model) != parameters:
      raise ValueError(
        f"{ours} has {count_parameters(model):,} parameters and {name} has "
        f"{parameters:,}; compare networks of the same shapes"
      )
    runs[ours] = compile_program(model, what, video)[1]
  times = interleave(runs, arguments.rounds)
  row: dict[str, Any] = {
    "peer": name,
    "program": what,
    "parameters": parameters,
    "median_ms": {
      label: 1e3 * statistics.median(found.wall)
      for label, found in times.items()
    },
    "ratio": {
      ours: ratios(times, ours, name)._asdict()
      for ours in (peer.same, peer.ours)
    },
  }
  for ours, ratio in row["ratio"].items():
    print(
      f"{what:<11} {ours:<24} {row['median_ms'][ours]:8.0f} ms, {name} "
      f"{row['median_ms'][name]:8.0f} ms: ratio {ratio['medians']:.3f} "
      f"(minima {ratio['minima']:.3f}, CPU {ratio['cpu']:.3f})",
      flush=True,
    )
  return row


def main() -> None:
  """Prints a table and one JSON line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", default="", help="part of a peer's name")
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rounds", type=int, default=9)
  arguments = parser.parse_args()
  keep_memory()
  rows = []
  for name, peer in PEERS.items():
    if arguments.only.lower() not in name.lower():
      continue
    for what in PROGRAMS:
      try:
        rows.append(compare(name, peer, what, arguments))
      except ImportError as error:
        print(f"{name} is left out: {error}", flush=True)
        break
      gc.collect()  # the next programs need the memory
  device = jax.devices()[0].device_kind
  print(json.dumps({"device": device, **vars(arguments), "rows": rows}))


if __name__ == "__main__":
  main()
