"""The files of clips: which one a segment has, and what is in it."""

import enum
import logging
import os
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int16

from perceiver_jax.buckets import is_in_bucket
from perceiver_jax.data import media
from perceiver_jax.data.audioset import files
from perceiver_jax.data.audioset.segments import Segment

SAMPLE_RATE_HZ = 48_000
FRAME_RATE_HZ = 25
SHORT_SIDE = 256
MIN_SECS = 1.28
"""Sound or pictures of less are of no use to the papers' models."""

# If there are several files of a segment, the first one that can have both
# sound and pictures.
SUFFIXES = ('.mp4', '.mkv', '.webm', '.flac', '.wav', '.m4a')

# The id has eleven characters, so no part of it is taken for the rest.
_NAME = re.compile(
  r'Y?(?P<id>[\w-]{11})(_(?P<start>\d+(\.\d+)?)([_-]\d+(\.\d+)?)?)?', re.ASCII
)
_TRUNCATED_SECS = 0.1
_SILENT_PEAK = 32  # Of 32,767: -60 dB.


_log = logging.getLogger(__name__)


class ClipFiles:
  """The files of a directory and all below it, by segment.

  A file is named `ID_START`, `ID_START_END`, `ID_START-END` or, as a video is
  in AudioSet but once, `ID`; a `Y` may stand before the id. Times are seconds
  with any number of decimals, or whole milliseconds.

  Other files are ignored, with a warning.

  Raises:
    OSError: a directory cannot be listed; the error names it.
    ValueError: there are no files of clips.
  """

  def __init__(self, directory: epath.Path):
    self._directory = directory
    self._names: dict[str, list[str]] = defaultdict(list)
    ignored = []
    for parent, names in _walk(directory):
      inner = epath.Path(parent).relative_to(directory)
      for name in names:
        stem, suffix = os.path.splitext(name)
        match = _NAME.fullmatch(stem)
        if match and suffix.lower() in SUFFIXES:
          self._names[match['id']].append(str(inner / name))
        else:
          ignored.append(str(inner / name))
    if not self._names:
      raise ValueError(
        f'{directory} must have files named ID_START, with one of the endings '
        f'{SUFFIXES}, got {ignored[:3] or "none"}.'
      )
    if ignored:
      _log.warning(
        'Ignored %d files of %s that are not named as clips are, such as %s',
        len(ignored),
        directory,
        ignored[0],
      )

  def of(self, segment: Segment) -> str | None:
    """Returns the file of a segment.

    Failing that, one of the same video that does not begin where the segment
    does; None if there is none of it.
    """
    names = self._names.get(segment.video_id)
    if not names:
      return None
    fitting = [name for name in names if begins_at(name, segment.start)]
    return str(self._directory / min(fitting or names, key=_preference))


def _walk(directory: epath.Path) -> Iterator[tuple[str, list[str]]]:
  """Yields the directory and all below it, each with the names of its files.

  Links are followed, but into each directory once, for they may form a loop.

  Raises:
    OSError: one of them cannot be listed.
  """

  def fail(error: Exception) -> None:
    raise error

  if is_in_bucket(directory):
    for parent, _, names in directory.walk(on_error=fail):
      yield str(parent), names
    return
  seen: set[str] = set()
  for parent, below, names in os.walk(
    directory, onerror=fail, followlinks=True
  ):
    real = os.path.realpath(parent)
    if real in seen:
      below.clear()
      continue
    seen.add(real)
    yield parent, names


def begins_at(name: str, start: float) -> bool:
  """Returns whether a clip of this name begins at `start`, or says not when."""
  written = _NAME.fullmatch(pathlib.PurePath(name).stem)['start']
  if written is None:
    return True
  # Some names round seconds; milliseconds are exact.
  is_in_secs = abs(float(written) - start) < 0.5
  return is_in_secs or abs(float(written) - 1000 * start) < 1


def _preference(name: str) -> tuple[int, str]:
  return SUFFIXES.index(pathlib.PurePath(name).suffix.lower()), name


class Remark(enum.Enum):
  """What is unusual about a clip.

  MISSING: there is no file. OTHER_START: there is one of the video, but by its
  name it begins elsewhere. KILLED: twice FFmpeg was killed or took too long,
  which need not be the fault of the file. UNREADABLE: FFmpeg finds neither
  sound nor pictures in it. TOO_SHORT: neither lasts for 1.28 s. These are left
  out. TRUNCATED: its sound or its pictures end 0.1 s or more before the segment
  does. SILENT: its sound stays below -60 dB. AUDIO_ONLY, VIDEO_ONLY: of the
  other there are not 1.28 s. These are kept.
  """

  MISSING = 'missing'
  OTHER_START = 'other_start'
  KILLED = 'killed'
  UNREADABLE = 'unreadable'
  TOO_SHORT = 'too_short'
  TRUNCATED = 'truncated'
  SILENT = 'silent'
  AUDIO_ONLY = 'audio_only'
  VIDEO_ONLY = 'video_only'

  @property
  def is_left_out(self) -> bool:
    """Whether such clips are not prepared."""
    return self in _LEFT_OUT


_LEFT_OUT = (
  Remark.MISSING,
  Remark.OTHER_START,
  Remark.KILLED,
  Remark.UNREADABLE,
  Remark.TOO_SHORT,
)


class Clip(NamedTuple):
  """What is in a file.

  Attributes:
    sound: 16-bit samples at 48 kHz; none if there is no sound of 1.28 s.
    frames: JPEG files, 25 a second; none if there are not enough for 1.28 s.
    remarks: what is unusual.
    detail: what FFmpeg said of what it could not read.
  """

  sound: Int16[np.ndarray, ' S']
  frames: list[bytes]
  remarks: tuple[Remark, ...]
  detail: str = ''

  @classmethod
  def left_out(cls, remark: Remark, detail: str = '') -> 'Clip':
    """Returns one without sound and pictures."""
    return cls(_NO_SOUND, [], (remark,), detail)

  @property
  def is_left_out(self) -> bool:
    """Whether it is not prepared."""
    return any(remark.is_left_out for remark in self.remarks)


_NO_SOUND = np.zeros(0, np.int16)


def read_clip(path: str | None, secs: float) -> Clip:
  """Reads the file of a segment; what is wrong with it is in the remarks.

  Args:
    path: of the file, None if there is none.
    secs: how long the segment is; what the file has beyond is left out.

  Raises:
    OSError: there is no FFmpeg.
  """
  if path is None:
    return Clip.left_out(Remark.MISSING)
  with files.local_copy(path) as local:
    if not os.path.isfile(local):  # A link, say, to nowhere.
      return Clip.left_out(Remark.MISSING, f'{path} is no file')
    try:
      sound, frames, detail = _read_again(local, secs)
    except ChildProcessError as error:
      return Clip.left_out(Remark.KILLED, str(error))
  lengths = [
    count / rate_hz
    for count, rate_hz in (
      (len(sound), SAMPLE_RATE_HZ),
      (len(frames), FRAME_RATE_HZ),
    )
  ]
  remarks = [Remark.TRUNCATED] if _is_truncated(lengths, secs) else []
  if lengths[0] < MIN_SECS:
    sound = _NO_SOUND
    remarks.append(Remark.VIDEO_ONLY)
  elif np.abs(sound.astype(np.int32)).max() <= _SILENT_PEAK:
    remarks.append(Remark.SILENT)
  if lengths[1] < MIN_SECS:
    frames = []
    remarks.append(Remark.AUDIO_ONLY)
  if not (sound.size or frames):
    is_read = any(lengths)
    remarks = [Remark.TOO_SHORT if is_read else Remark.UNREADABLE]
  return Clip(sound, frames, tuple(remarks), detail)


def _read_again(
  path: str, secs: float
) -> tuple[Int16[np.ndarray, ' S'], list[bytes], str]:
  """Reads a file, a second time if FFmpeg was killed the first."""
  try:
    return _read(path, secs)
  except ChildProcessError as error:
    _log.warning('Reading once more: %s', error)
    return _read(path, secs)


def _read(
  path: str, secs: float
) -> tuple[Int16[np.ndarray, ' S'], list[bytes], str]:
  """Returns sound, frames, and what was said of those that are not there."""
  sound, frames, errors = _NO_SOUND, [], []
  try:
    num_samples = round(secs * SAMPLE_RATE_HZ)
    sound = media.read_sound(path, SAMPLE_RATE_HZ, num_samples)
  except ValueError as error:
    errors.append(str(error))
  try:
    num_frames = round(secs * FRAME_RATE_HZ)
    frames = media.read_frames(path, FRAME_RATE_HZ, num_frames, SHORT_SIDE)
  except ValueError as error:
    errors.append(str(error))
  return sound, frames, '; '.join(errors)


def _is_truncated(lengths: Iterable[float], secs: float) -> bool:
  return any(0 < length <= secs - _TRUNCATED_SECS for length in lengths)
