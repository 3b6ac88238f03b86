"""Which 1.28 seconds of a clip are taken, of sound and pictures alike."""

import numpy as np
from jaxtyping import Int, Int16


def random_starts(
  num_frames: int, clip_frames: int, rng: np.random.Generator
) -> Int[np.ndarray, '1']:
  """Draws the first frame of a part, uniform among all that are inside.

  Args:
    num_frames: of what there is.
    clip_frames: of the part. If there are fewer, it begins at the first.
    rng: decides.
  """
  return rng.integers(max(num_frames - clip_frames, 0) + 1, size=1)


def even_starts(
  num_frames: int, clip_frames: int, num_clips: int
) -> Int[np.ndarray, ' K']:
  """Returns first frames of parts from the first to the last, equally far.

  16 parts of 32 frames, of 250, begin at 0, 15, 29, ... and 218: they overlap.

  Args:
    num_frames: of what there is.
    clip_frames: of a part.
    num_clips: number K of parts.
  """
  last = max(num_frames - clip_frames, 0)
  return np.round(np.linspace(0, last, num_clips)).astype(np.int64)


def sound_parts(
  sound: Int16[np.ndarray, ' samples'],
  starts: Int[np.ndarray, ' K'],
  clip_frames: int,
  samples_per_frame: int,
) -> Int16[np.ndarray, 'K S 1']:
  """Returns the sound of parts; silence stands for what is not there.

  Args:
    sound: from frame 0 on.
    starts: first frames of K parts.
    clip_frames: of a part.
    samples_per_frame: samples in the time of one frame.
  """
  size = clip_frames * samples_per_frame
  parts = []
  for start in starts:
    part = sound[start * samples_per_frame :][:size]
    parts.append(np.pad(part, (0, size - len(part))))
  return np.stack(parts)[..., None]


def frame_numbers(
  num_frames: int, starts: Int[np.ndarray, ' K'], clip_frames: int
) -> Int[np.ndarray, 'K T']:
  """Returns the frames of parts; the last one stands for those behind it."""
  numbers = starts[:, None] + np.arange(clip_frames)
  return np.minimum(numbers, num_frames - 1)
