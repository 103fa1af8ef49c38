"""The model's forward pass on views that come one video after the other.

Views of successive videos fill batches of one fixed size, the last of which is
padded: the program is compiled once, whatever the videos are.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from vidjax.nn.functional import merge, split
from vidjax.prediction.trained import Trained
from vidjax.train.inputs import normalise
from vidjax.train.label_heads import split_logits

T = TypeVar("T")

Forward = Callable[
  [UInt8[np.ndarray, "b t h w 3"]], tuple[jax.Array, jax.Array | None]
]


@dataclasses.dataclass(frozen=True)
class Seen(Generic[T]):
  """What the model makes of the views of one video or window.

  Attributes:
    of: what they are views of.
    probabilities: of all classes, the mean of the views.
    features: of each view's frames; None if they were not asked for.
  """

  of: T
  probabilities: Float32[np.ndarray, " k"]
  features: Float32[np.ndarray, "v s c"] | None


def make_forward(trained: Trained, *, features: bool) -> Forward:
  """Returns a compiled function from views to probabilities and features.

  Both are float32, (b k) and (b s c). The weights stay on one device.

  Args:
    trained: the model.
    features: whether the second result is wanted; it is None otherwise.
  """
  definition, params, stats = split(trained.model)
  # What a run saved may lie on all devices.
  params, stats = jax.device_put((params, stats), jax.local_devices()[0])
  run = jax.jit(forward_pass(definition, trained, features=features))
  return lambda video: run(params, stats, video)


def forward_pass(
  definition: Any, trained: Trained, *, features: bool
) -> Callable[..., tuple[jax.Array, jax.Array | None]]:
  """Returns `(params, stats, video) -> (probabilities, features)`, traceable.

  Args:
    definition: of the model, from `vidjax.nn.functional.split`.
    trained: what its clips must be like, and its heads.
    features: see `make_forward`.
  """

  def run(params: Any, stats: Any, video: jax.Array):
    model = merge(definition, params, stats)
    clips = normalise(video, trained.mean, trained.std)
    heads = split_logits(model(clips), trained.head_sizes)
    scores = [jax.nn.softmax(logits, axis=-1) for logits in heads]
    # XLA shares the backbone's work between both results.
    kept = model.features(clips).astype(jnp.float32) if features else None
    return jnp.concatenate(scores, axis=-1), kept

  return run


def see_all(
  forward: Forward,
  videos: Iterable[tuple[T, UInt8[np.ndarray, "_ t h w 3"]]],
  batch_size: int,
) -> Iterator[Seen[T]]:
  """Yields what the model makes of each video, in their order.

  One batch is computed while the views of the next are read.

  Args:
    forward: of `make_forward`.
    videos: anything, and its views; without views the result is empty.
    batch_size: views of a forward pass.
  """
  waiting: collections.deque[tuple[T, int]] = collections.deque()
  running: collections.deque[tuple[Any, int]] = collections.deque()
  views: list[np.ndarray] = []
  rows: collections.deque[tuple[np.ndarray, np.ndarray | None]]
  rows = collections.deque()

  def begin() -> None:
    real = views[:batch_size]
    del views[:batch_size]
    padding = [np.zeros_like(real[0])] * (batch_size - len(real))
    running.append((forward(np.stack([*real, *padding])), len(real)))

  def end() -> None:
    (scores, features), count = running.popleft()
    scores = np.asarray(scores)[:count]
    kept = [None] * count if features is None else np.asarray(features)[:count]
    rows.extend(zip(scores, kept, strict=True))

  def ready() -> Iterator[Seen[T]]:
    while waiting and len(rows) >= waiting[0][1]:
      of, count = waiting.popleft()
      yield _joined(of, [rows.popleft() for _ in range(count)])

  for of, found in videos:
    waiting.append((of, len(found)))
    views.extend(found)
    while len(views) >= batch_size:
      begin()
    while len(running) > 1:
      end()
    yield from ready()
  if views:
    begin()
  while running:
    end()
  yield from ready()


def _joined(of: T, rows: list[tuple[np.ndarray, np.ndarray | None]]) -> Seen[T]:
  scores = np.array([row for row, _ in rows], np.float32)
  features = [kept for _, kept in rows if kept is not None]
  return Seen(
    of,
    scores.mean(axis=0) if rows else np.zeros(0, np.float32),
    np.stack(features) if features else None,
  )
