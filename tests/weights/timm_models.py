"""timm's image models with random weights; tests skip where it is missing."""

import functools

import numpy as np
import pytest

REASON = "compares with timm itself: pip install 'vidjax[timm]'"


@functools.cache
def _libraries():
  torch = pytest.importorskip("torch", reason=REASON)
  # torchvision's wheel on the package index does not fit PyTorch for CPUs: it
  # lacks these operators, which it declares more of and timm does not need.
  library = torch.library.Library("torchvision", "DEF")
  boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
  for name in ("nms", "qnms"):
    try:
      library.define(f"{name}{boxes}")
    except RuntimeError:  # it is there
      break
  return torch, pytest.importorskip("timm", reason=REASON), library


def random_model(name, size, **options):
  """A model in evaluation mode, every weight and statistic non-trivial.

  Running statistics are those of random images: with others activations grow
  from layer to layer, and roundings with them.

  Returns:
    Its state dict as arrays, and a function of images (b h w 3) of a size that
    returns logits.
  """
  torch, timm, _ = _libraries()
  torch.manual_seed(0)
  model = timm.create_model(name, **options)
  with torch.no_grad():
    for parameter in model.parameters():
      spread = parameter.std().nan_to_num(0) / 10 + 0.02
      parameter.add_(spread * torch.randn_like(parameter))
    for module in model.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = 1.0
    model.train()(torch.randn(4, 3, size, size))
    model.eval()

  def logits(images):
    layout = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
      return model(torch.from_numpy(layout)).numpy()

  return {k: v.numpy() for k, v in model.state_dict().items()}, logits
