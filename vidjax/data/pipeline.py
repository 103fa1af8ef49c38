"""Batches of clips: a random-access chain that any number of hosts can share.

Every clip is a function of (seed, global position) alone: the draws are made
before the hosts take their slices, and whole batches are made before they are
prefetched. So the batch of step k is the same for any number of hosts and
threads, and the step is all that must be saved to resume.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import logging
from jaxtyping import UInt8

from vidjax.checks import Config, one_of
from vidjax.data.augment import RECIPES, erase_box
from vidjax.data.backends import BACKENDS
from vidjax.data.clips import open_clip
from vidjax.data.decode import Transform, VideoError
from vidjax.data.epochs import Epochs, Part, whole_micro_batches
from vidjax.data.geometry import CROPS
from vidjax.data.manifest import Clip, Manifest
from vidjax.data.sampling import SAMPLERS, Sampler
from vidjax.data.views import Views, read_views

_SUBSTITUTES = 3  # other videos tried in the place of one that is bad
_KEYS = 20  # bad videos that are remembered by name
_PATIENCE = 60  # seconds without a batch, after which the log says what is read
_FIRST_VERDICT = 1000  # videos that are seen before a share can be trusted

Batch = dict[str, np.ndarray]


class TooManyBadVideosError(RuntimeError):
  """More videos cannot be read than the configuration allows."""


class BadVideos:
  """Knows the videos being read, and those that could not be; thread-safe.

  Attributes:
    counts: number of bad videos by reason (see `VideoError`).
    keys: ids of the first 20.
  """

  def __init__(self, manifest: Manifest, max_share: float = 1.0):
    self.counts: dict[str, int] = {}
    self.keys: list[str] = []
    self._max_share = max_share
    self._split = manifest.split
    self._seen = np.zeros(len(manifest.clips), bool)
    self._bad = np.zeros(len(manifest.clips), bool)
    self._reading: dict[int, str] = {}
    self._lock = threading.Lock()

  @property
  def reading(self) -> list[str]:
    """Ids of the videos that are being read at this moment."""
    with self._lock:
      return sorted({*self._reading.values()})

  @property
  def total(self) -> int:
    """Number of bad videos so far."""
    return sum(self.counts.values())

  @property
  def share(self) -> float:
    """Bad videos as a share of those seen so far."""
    return self.total / max(np.count_nonzero(self._seen), 1)

  def metrics(self) -> dict[str, int]:
    """Returns their number, and that of each reason, by name."""
    with self._lock:
      reasons = {f"bad/{reason}": n for reason, n in self.counts.items()}
      return {"bad_videos": self.total} | reasons

  @contextlib.contextmanager
  def read(self, index: int, clip: Clip) -> Iterator[None]:
    """Notes for a context that this thread reads the video of clip `index`."""
    self._seen[index] = True
    thread = threading.get_ident()
    with self._lock:
      self._reading[thread] = clip.id
    try:
      yield
    finally:
      with self._lock:
        del self._reading[thread]

  def add(self, index: int, clip: Clip, error: VideoError) -> None:
    """Notes a bad video, and names it in the log the first time.

    The share is judged as if at least 1000 videos (or the whole split) had been
    seen, so that two early ones do not stop a large run.

    Raises:
      TooManyBadVideosError: if the bad ones are at least two and more than the
        allowed share.
    """
    with self._lock:
      if not self._bad[index]:
        self._bad[index] = True
        self.counts[error.reason] = self.counts.get(error.reason, 0) + 1
        if len(self.keys) < _KEYS:
          self.keys.append(clip.id)
        logging.warning("%s: clip %r: %s", self._split, clip.id, error)
      seen = np.count_nonzero(self._seen)
      base = max(seen, min(len(self._seen), _FIRST_VERDICT))
      if self.total >= 2 and self.total > self._max_share * base:
        raise TooManyBadVideosError(
          f"{self.total} of the {seen} videos of split {self._split!r} seen so "
          f"far cannot be read ({self.counts}; first: {self.keys}): repair or "
          "remove them, or raise data.max_bad_share from "
          f"{self._max_share}."
        )


class Batches(Iterator[Batch]):
  """An iterator over batches; closing it (or leaving its context) stops it.

  Attributes:
    bad: the videos that could not be read so far.
  """

  def __init__(self, batches: grain.DatasetIterator, bad: BadVideos):
    self.bad = bad
    self._batches = batches

  def __next__(self) -> Batch:
    timer = threading.Timer(_PATIENCE, self._complain)
    timer.daemon = True
    timer.start()
    try:
      return next(self._batches)
    finally:
      timer.cancel()

  def _complain(self) -> None:
    logging.warning(
      "no batch for %d s; being read: %s",
      _PATIENCE,
      ", ".join(map(repr, self.bad.reading)) or "nothing",
    )

  def __enter__(self) -> "Batches":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Stops the decoding threads."""
    self._batches.close()


def steps_per_epoch(
  manifest: Manifest, batch_size: int, micro_batch: int | None = None
) -> int:
  """Whole batches in the split, at least 1.

  Args:
    manifest: the split.
    batch_size: clips of a batch.
    micro_batch: clips of the micro-batches of epochs that end with what is left
      (`train_batches`): their last batch counts too.
  """
  if micro_batch is None:
    return max(len(manifest.clips) // batch_size, 1)
  return -(-whole_micro_batches(manifest, micro_batch) // batch_size)


def train_batches(
  manifest: Manifest,
  config: Config,
  *,
  seed: int,
  start_step: int = 0,
  micro_batch: int | None = None,
  host: int = 0,
  hosts: int = 1,
) -> Batches:
  """Endless shuffled training batches, from step `start_step` on.

  A video that cannot be read is replaced by up to three others in turn, then by
  zeros of weight 0.

  One epoch follows the other without a gap: a batch may hold clips of both. If
  `micro_batch` is given they are kept apart: an epoch is as many micro-batches
  as there are whole ones (the rest of the clips is left out), and its last
  batch is filled up with micro-batches of weight 0.

  Args:
    manifest: the split to train on.
    config: the `data` part of the configuration; `batch_size` is over all
      hosts.
    seed: of the order and of every draw.
    start_step: number of batches to skip; costs nothing.
    micro_batch: clips of each of the m micro-batches of a batch, over all
      hosts, whose number divides it; None to join epochs. Micro-batch i is
      clips i, i + m, i + 2m, ... of the batch
      (`vidjax.train.optim.accumulate_gradients`).
    host: which part of each batch to return.
    hosts: number of parts, each of which follows the one before.

  Returns:
    An iterator over `video` uint8 (b t h w 3), `label` int32 (b), `erase` int32
    (b 4): the box (top, left, height, width) to blank, zeros for none; and
    `weight` float32 (b).

  Raises:
    ValueError: if the configuration is wrong.
    TooManyBadVideosError: while iterating, see `BadVideos`.
  """
  bad = BadVideos(manifest, config.max_bad_share)
  make = _TrainClip(manifest, config, bad, seed)
  clips = grain.MapDataset.range(len(manifest.clips)).seed(seed).shuffle()
  if micro_batch is None:
    clips = clips.repeat().random_map(make)
  else:
    clips = clips[: whole_micro_batches(manifest, micro_batch)].random_map(make)
    clips = Epochs(clips, config.batch_size, micro_batch, make.nothing).repeat()
  batches = _share(clips, config.batch_size, host, hosts)[start_step:]
  return Batches(_prefetch(batches, config), bad)


def eval_batches(
  manifest: Manifest,
  config: Config,
  *,
  batch_size: int,
  clips: int,
  crops: int,
  crop_style: str = "slowfast",
  short_side: int = 0,
  host: int = 0,
  hosts: int = 1,
) -> Batches:
  """Every video of a split once, in order, with all its views.

  Each video is decoded once. All hosts get the same number of batches; the last
  ones are filled up with zeros of mask 0. A video that cannot be read is zeros
  of mask 1, and is counted in `bad`.

  Args:
    manifest: the split to evaluate on.
    config: the `data` part of the configuration.
    batch_size: videos per batch, over all hosts.
    clips: clips per video.
    crops: crops per clip, 1 or 3.
    crop_style: "slowfast", "mmaction" or "torchvision", see `eval_crops`.
    short_side: of the scaled frames, in pixels; 0 for the image size.
    host: which part of each batch to return.
    hosts: number of parts.

  Returns:
    An iterator over `video` uint8 (b v t h w 3) with v = clips * crops views,
    crops running fastest; `label` int32 (b), `mask` float32 (b), and `index`
    int32 (b), the number of the clip in the manifest, -1 for filling.

  Raises:
    ValueError: if the configuration is wrong.
  """
  bad = BadVideos(manifest)
  steps = -(-len(manifest.clips) // batch_size)
  views = Views(
    frames=config.frames,
    image_size=config.image_size,
    sampling=config.sampling,
    stride=config.stride,
    segments=config.segments,
    clips=clips,
    crops=crops,
    crop_style=crop_style,
    short_side=short_side,
  )
  videos = grain.MapDataset.range(steps * batch_size).map(
    _EvalVideo(manifest, config, bad, views)
  )
  return Batches(
    _prefetch(_share(videos, batch_size, host, hosts), config), bad
  )


def _share(
  clips: grain.MapDataset, batch_size: int, host: int, hosts: int
) -> grain.MapDataset:
  """Batches of the clips of one host."""
  if batch_size % hosts:
    raise ValueError(
      f"a batch of {batch_size} clips cannot be shared by {hosts} hosts: make "
      "the batch size a multiple of the number of hosts."
    )
  part = Part(clips, batch_size, host, hosts)
  return part.batch(batch_size // hosts)


def _prefetch(
  batches: grain.MapDataset, config: Config
) -> grain.DatasetIterator:
  options = grain.ReadOptions(
    num_threads=config.threads,
    prefetch_buffer_size=max(config.prefetch, config.threads),
  )
  return iter(batches.to_iter_dataset(options))


def _entry(table: Mapping[str, Any], key: str, config: Config) -> Any:
  """Looks up the table's entry that the configuration names under `key`."""
  return table[one_of(f"data.{key}", getattr(config, key), table)]


def _sampling(config: Config) -> tuple[Sampler, dict[str, int]]:
  """The sampler, and what its functions take from the configuration."""
  sampler = _entry(SAMPLERS, "sampling", config)
  keys = ("frames", "stride", *sampler.options)
  return sampler, {key: getattr(config, key) for key in keys}


def _opener(
  manifest: Manifest, config: Config
) -> Callable[[Clip], contextlib.AbstractContextManager[Any]]:
  """Opens clips with the chosen decoder, whose name is checked here."""
  decoder = one_of("data.decoder", config.decoder, tuple(BACKENDS))
  return lambda clip: open_clip(manifest.file(clip), decoder)


class _TrainClip:
  """Makes one training example of a clip number and its random generator."""

  def __init__(
    self, manifest: Manifest, config: Config, bad: BadVideos, seed: int
  ):
    self._manifest = manifest
    self._config = config
    self._bad = bad
    self._sampler, self._sampling = _sampling(config)
    self._open = _opener(manifest, config)
    self._crop = _entry(CROPS, "crop", config)(config)
    self._recipe = _entry(RECIPES, "auto_augment", config)
    self._augment = self._recipe.build(seed)
    self._never_flipped = frozenset(config.no_flip_labels)

  def nothing(self, label: int = 0) -> Batch:
    """Returns an example of weight 0."""
    c = self._config
    shape = (c.frames, c.image_size, c.image_size, 3)
    return _train_example(np.zeros(shape, np.uint8), label, weight=0.0)

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
    clips = self._manifest.clips
    original = index
    for _ in range(1 + _SUBSTITUTES):
      try:
        with self._bad.read(index, clips[index]):
          return self._example(clips[index], rng)
      except VideoError as error:
        self._bad.add(index, clips[index], error)
      index = int(rng.integers(len(clips)))
    return self.nothing(clips[original].label)

  def _example(self, clip: Clip, rng: np.random.Generator) -> Batch:
    c = self._config
    flip = bool(rng.random() < c.flip)
    flip &= clip.label not in self._never_flipped
    erase = None
    if rng.random() < c.erase:
      erase = erase_box(rng, c.image_size, c.image_size)
    with self._open(clip) as video:
      first, count = clip.part(video.frames)
      indices = first + self._sampler.train(rng, count, **self._sampling)
      crop = self._crop_of(rng, flip and not self._recipe.flip_last)
      if self._recipe.cropped:
        frames = self._augment(video.read(indices, crop), rng)
      else:
        whole = self._augment(video.read(indices), rng)
        frames = np.stack([crop(frame) for frame in whole])
    if flip and self._recipe.flip_last:
      frames = frames[:, :, ::-1]
    label = self._manifest.flip[clip.label] if flip else clip.label
    return _train_example(frames, label, erase=erase)

  def _crop_of(self, rng: np.random.Generator, flip: bool) -> Transform:
    """A crop that is drawn when the size of the frames is known."""
    drawn = None

    def crop(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
      nonlocal drawn
      if drawn is None:
        drawn = self._crop(rng, *frame.shape[:2])
      image = drawn(frame)
      return image[:, ::-1] if flip else image

    return crop


def _train_example(
  video: UInt8[np.ndarray, "t h w 3"],
  label: int,
  *,
  erase: np.ndarray | None = None,
  weight: float = 1.0,
) -> Batch:
  return {
    "video": video,
    "label": np.array(label, np.int32),
    "erase": np.zeros(4, np.int32) if erase is None else erase,
    "weight": np.array(weight, np.float32),
  }


class _EvalVideo:
  """Makes all views of the video of a clip number."""

  def __init__(
    self, manifest: Manifest, config: Config, bad: BadVideos, views: Views
  ):
    self._manifest = manifest
    self._bad = bad
    self._views = views
    self._open = _opener(manifest, config)

  def __call__(self, index: int) -> Batch:
    views = self._views
    side = views.image_size
    video = np.zeros((views.count, views.frames, side, side, 3), np.uint8)
    if index >= len(self._manifest.clips):
      return _eval_example(video, 0, readable=False, mask=0.0, index=-1)
    clip = self._manifest.clips[index]
    try:
      with self._bad.read(index, clip), self._open(clip) as source:
        video = read_views(source, views, *clip.part(source.frames))
        readable = True
    except VideoError as error:
      self._bad.add(index, clip, error)
      readable = False
    return _eval_example(
      video, clip.label, readable=readable, mask=1.0, index=index
    )


def _eval_example(
  views: UInt8[np.ndarray, "v t h w 3"],
  label: int,
  *,
  readable: bool,
  mask: float,
  index: int,
) -> Batch:
  return {
    "video": views,
    "label": np.array(label, np.int32),
    "readable": np.array(readable),
    "mask": np.array(mask, np.float32),
    "index": np.array(index, np.int32),
  }
