"""Sound and pictures of files, as data sets store them."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16

from perceiver_jax import ffmpeg

_MAX_SECS = 600
"""One file in a million must not stop all the others."""

# Where one JPEG ends and the next begins. Neither marker occurs inside: every
# 255 of coded pixels is followed by a zero, and what FFmpeg writes before them
# has none.
_NEXT_JPEG = re.compile(rb'(?<=\xff\xd9)(?=\xff\xd8)')


def read_sound(
  path: ffmpeg.Path, sample_rate_hz: int, max_samples: int
) -> Int16[np.ndarray, ' S']:
  """Reads the beginning of the sound of a file, mixed to one channel.

  Args:
    path: of the file.
    sample_rate_hz: of the result; other rates are resampled.
    max_samples: how many of these samples to read at most.

  Returns:
    Samples from the moment at which the file begins, sound or pictures: sound
    that begins later comes after silence. At least one.

  Raises:
    OSError: there is no such file, no FFmpeg, or it was killed.
    ValueError: the file has no sound that can be read.
  """
  filters = f'aresample={sample_rate_hz}:async=1:first_pts=0'
  filters += f',atrim=end_sample={max_samples}'
  # One thread each, for the caller reads many files at once.
  source = ['-threads', 1, '-i', path, '-map', '0:a:0', '-ac', 1]
  target = ['-af', filters, '-f', 's16le', '-']
  rule = f'{path} must have sound that can be read'
  return np.frombuffer(_stream(rule, source + target), np.int16)


def read_frames(
  path: ffmpeg.Path, frame_rate_hz: int, max_frames: int, short_side: int
) -> list[bytes]:
  """Reads the first frames of a video as JPEG files.

  Args:
    path: of the file.
    frame_rate_hz: frames are dropped or repeated to get to it.
    max_frames: how many frames to read at most.
    short_side: in pixels, of the frames; the longer side is in proportion and
      even.

  Returns:
    Frames from the moment at which the file begins, sound or pictures: the
    first one is repeated if it comes later. At least one.

  Raises:
    OSError: there is no such file, no FFmpeg, or it was killed.
    ValueError: the file has no frames that can be read; the picture on the
      cover of a sound is none.
  """
  size = f'w=if(gt(iw\\,ih)\\,-2\\,{short_side})'
  size += f':h=if(gt(iw\\,ih)\\,{short_side}\\,-2)'
  # JPEG has colours as BT.601, in the full range.
  colours = 'out_color_matrix=bt601:out_range=full'
  filters = f'fps={frame_rate_hz}:start_time=0,scale={size}:{colours}'
  source = ['-threads', 1, '-i', path, '-map', '0:V:0']
  target = ['-vf', f'{filters},format=yuvj420p', '-frames:v', max_frames]
  target += ['-threads', 1, '-f', 'image2pipe', '-c:v', 'mjpeg', '-q:v', 4, '-']
  rule = f'{path} must have frames that can be read'
  return _NEXT_JPEG.split(_stream(rule, source + target))


def _stream(rule: str, arguments: Sequence[object]) -> bytes:
  """Returns what FFmpeg makes of one stream of a file.

  Raises:
    OSError: there is no such file, no FFmpeg, or it was killed.
    ValueError: there is no such stream, or nothing in it.
  """
  try:
    data = ffmpeg.run(rule, arguments, max_secs=_MAX_SECS)
  except ValueError as error:
    if 'matches no streams' not in str(error):
      raise
    data = b''  # Half of all files, perhaps; FFmpeg makes five errors of it.
  if not data:
    raise ValueError(f'{rule}, got none.')
  return data
