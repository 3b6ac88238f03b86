"""One file of prepared examples at a time: the unit of work and of resuming."""

import collections
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from perceiver_jax.data import records
from perceiver_jax.data.audioset import clips, files
from perceiver_jax.data.audioset.contents import ExampleContents
from perceiver_jax.data.audioset.segments import Segment

_DONE_SUFFIX = '.done.json'


def features(class_names: Iterable[str] | None) -> tfds.features.FeaturesDict:
  """Returns what an example is made of.

  'audio' is empty for a clip without sound, otherwise it lasts for 1.28 s or
  longer; so do the frames of 'video', which are JPEG files. Both begin at
  'start', so that frame f is at sample 1,920 f, and may differ in length.

  Args:
    class_names: in the order of the labels; None before they are known.
  """
  return tfds.features.FeaturesDict(
    {
      'video_id': tfds.features.Text(),
      'start': np.float32,
      'end': np.float32,
      'sample_rate': np.int32,
      'fps': np.int32,
      # `features.Audio` stores a sample as a varint, three times the bytes and
      # nine times the time to read, and `features.Video` decodes every frame.
      'audio': tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
      ),
      'video': tfds.features.Tensor(shape=(None,), dtype=np.object_),
      'labels': tfds.features.Sequence(
        tfds.features.ClassLabel(names=class_names)
      ),
    }
  )


class Shard(NamedTuple):
  """What is to be read, and the file to write.

  Attributes:
    path: of the file to write.
    segments: each with its file, or one of another time of the same video;
      None if there is none.
    class_names: in the order of the labels.
    file_format: of TFDS.
  """

  path: str
  segments: list[tuple[Segment, str | None]]
  class_names: list[str]
  file_format: str


class Unusual(NamedTuple):
  """A segment with remarks.

  Attributes:
    video_id: of the segment.
    start: of the segment, in seconds.
    remarks: values of `Remark`.
    detail: what FFmpeg said, if anything.
  """

  video_id: str
  start: float
  remarks: tuple[str, ...]
  detail: str


class Outcome(NamedTuple):
  """What became of a shard.

  Attributes:
    num_segments: how many were listed.
    num_examples: how many are in the file.
    num_bytes: of the examples.
    file_size: in bytes.
    unusual: the segments with remarks.
    examples: what is in each example of the file.
  """

  num_segments: int
  num_examples: int
  num_bytes: int
  file_size: int
  unusual: tuple[Unusual, ...]
  examples: tuple[ExampleContents, ...]


def outcome_of(path: str) -> Outcome | None:
  """Returns what became of the shard of this path.

  None if it is not done, if what says so is damaged, or if it was written by an
  earlier version that knew less.
  """
  done = epath.Path(path + _DONE_SUFFIX)
  if not done.exists():
    return None
  try:
    *counts, unusual, examples = json.loads(done.read_text())
    return Outcome(
      *counts,
      tuple(Unusual(*fields) for fields in unusual),
      tuple(ExampleContents(*fields) for fields in examples),
    )
  except (ValueError, TypeError):
    return None


def is_done(path: str) -> bool:
  """Returns whether nothing is left to do for the shard of this path.

  An FFmpeg that was killed may come to an end the next time. In a bucket, files
  are moved when all are there, and a run may end between two of them. A disk
  may have lost a file, or a part of it.
  """
  outcome = outcome_of(path)
  if outcome is None or files.size_of(path) != outcome.file_size:
    return False
  return not any(
    clips.Remark.KILLED.value in clip.remarks for clip in outcome.unusual
  )


def write_shard(
  shard: Shard, num_threads: int, on_segment: Callable[[], object]
) -> Outcome:
  """Reads the clips of a shard and writes its file; leaves no half of one.

  Args:
    shard: what to do.
    num_threads: how many clips to read at once.
    on_segment: called after each segment.

  Raises:
    OSError: there is no FFmpeg, or the file cannot be written.
  """
  sizes: list[int] = []
  unusual: list[Unusual] = []
  contents: list[ExampleContents] = []

  def examples() -> Iterator[tuple[int, bytes]]:
    connectors = features(shard.class_names)
    read = _in_order(_read, shard.segments, num_threads)
    for (segment, _), clip in zip(shard.segments, read, strict=True):
      if clip.remarks:
        remarks = tuple(remark.value for remark in clip.remarks)
        unusual.append(Unusual(*segment[:2], remarks, clip.detail))
      if not clip.is_left_out:
        data = connectors.serialize_example(_example(segment, clip))
        yield len(sizes), data
        sizes.append(len(data))
        contents.append(
          ExampleContents(
            clip.sound.size > 0, len(clip.frames) > 0, list(segment.labels)
          )
        )
      on_segment()

  file_format = tfds.core.FileFormat(shard.file_format)
  with files.whole_file(shard.path) as unfinished, records.os_errors():
    tfds.core.ExampleWriter(file_format).write(unfinished, examples())
    file_size = files.size_of(unfinished)
  outcome = Outcome(
    len(shard.segments),
    len(sizes),
    sum(sizes),
    file_size,
    tuple(unusual),
    tuple(contents),
  )
  # Last, since it says that the other is whole.
  with files.whole_file(shard.path + _DONE_SUFFIX) as unfinished:
    epath.Path(unfinished).write_text(json.dumps(outcome))
  return outcome


def _read(listed: tuple[Segment, str | None]) -> clips.Clip:
  segment, path = listed
  if path is not None and not clips.begins_at(path, segment.start):
    return clips.Clip.left_out(
      clips.Remark.OTHER_START,
      f'{path} must begin at {segment.start} s, its name says another time.',
    )
  return clips.read_clip(path, segment.secs)


def _example(segment: Segment, clip: clips.Clip) -> dict[str, Any]:
  return {
    'video_id': segment.video_id,
    'start': segment.start,
    'end': segment.end,
    'sample_rate': clips.SAMPLE_RATE_HZ,
    'fps': clips.FRAME_RATE_HZ,
    'audio': clip.sound,
    'video': np.array(clip.frames, np.object_),
    'labels': segment.labels,
  }


def _in_order(
  function: Callable[[Any], Any], items: Iterable[Any], num_threads: int
) -> Iterator[Any]:
  """Maps in threads, with no more results waiting than twice the threads."""
  with futures.ThreadPoolExecutor(num_threads) as pool:
    pending: collections.deque[futures.Future[Any]] = collections.deque()
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) == 2 * num_threads:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
