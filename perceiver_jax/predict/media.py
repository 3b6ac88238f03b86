"""Images, video and sound from and to files."""

import os
import pathlib
import tempfile

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from perceiver_jax import ffmpeg
from perceiver_jax.data import media as stored
from perceiver_jax.data.crop import centre_window
from perceiver_jax.data.resize import resize_bytes
from perceiver_jax.ffmpeg import Path
from perceiver_jax.predict import images
from perceiver_jax.predict.recordings import ClipFormat, Recording

CROP = 224 / 256
"""The part of a frame that an evaluation on AudioSet looks at."""
# As AudioSet is stored.
_SHORT_SIDE = 256


def read_image(path: Path, num_channels: int) -> UInt8[np.ndarray, 'Y X C']:
  """Reads a JPEG, PNG or other image, turned as its camera says.

  Args:
    path: of the file.
    num_channels: 3 for red, green and blue, 1 for grey.

  Raises:
    OSError: there is no such file, or it cannot be read.
    ValueError: it is no image, or images of so many colours do not exist.
  """
  if num_channels not in (1, 3):
    raise ValueError(
      f'an image in a file must have 1 or 3 channels, got {num_channels}.'
    )
  data = np.fromfile(path, np.uint8)
  mode = cv2.IMREAD_COLOR_RGB if num_channels == 3 else cv2.IMREAD_GRAYSCALE
  image = cv2.imdecode(data, mode) if data.size else None
  if image is None:
    raise ValueError(
      f'{path} must be an image, such as JPEG or PNG, got something else.'
    )
  return image.reshape(*image.shape[:2], num_channels)


def read_video(
  path: Path, size: tuple[int, int], frame_rate_hz: float, max_frames: int
) -> UInt8[np.ndarray, 'T Y X 3']:
  """Reads the first frames of a video, cropped and resized.

  Args:
    path: of the file.
    size: rows and columns; see `images.framed`.
    frame_rate_hz: frames are dropped or repeated to get to it.
    max_frames: how many frames to read at most.

  Raises:
    OSError: there is no such file.
    ValueError: it has no video.
  """
  options = f'-an -vf fps={frame_rate_hz} -frames:v {max_frames}'
  rule = f'{path} must have video that can be read'
  data = ffmpeg.run(
    rule,
    ['-i', path, *options.split(), '-f', 'image2pipe', '-c:v', 'ppm', '-'],
  )
  if not data.startswith(b'P6'):
    raise ValueError(f'{rule}, got none.')
  # Each frame is a header of three lines, and its bytes; all of one size.
  _, size_line, _, _ = data.split(b'\n', 3)
  columns, rows = map(int, size_line.split())
  header = len(b'P6\n' + size_line + b'\n255\n')
  frames = np.frombuffer(data, np.uint8).reshape(
    -1, header + rows * columns * 3
  )
  frames = frames[:, header:].reshape(-1, rows, columns, 3)
  return np.stack([images.framed(frame, size) for frame in frames])


def read_audio(
  path: Path, sample_rate_hz: int, max_samples: int
) -> Float[np.ndarray, 'S 1']:
  """Reads the beginning of the first channel of sound of a file, resampled.

  Args:
    path: of the file.
    sample_rate_hz: of the result.
    max_samples: how many of these samples to read at most.

  Raises:
    OSError: there is no such file.
    ValueError: it has no sound.
  """
  filters = f'pan=mono|c0=c0,aresample={sample_rate_hz}'
  filters += f',atrim=end_sample={max_samples}'
  options = ['-vn', '-map', '0:a:0', '-af', filters, '-f', 'f32le']
  rule = f'{path} must have sound that can be read'
  data = ffmpeg.run(rule, ['-i', path, *options, '-'])
  if not data:
    raise ValueError(f'{rule}, got none.')
  return np.frombuffer(data, np.float32)[:, None]


def read_recording(
  path: Path, form: ClipFormat, max_secs: float, crop: float = CROP
) -> Recording:
  """Reads what a model takes of the beginning of a file, as AudioSet stores it.

  Args:
    path: of the file.
    form: what the model takes; of sound and video the file may lack one.
    max_secs: how much to read at most.
    crop: side of the centre that is looked at over a frame's shorter side.

  Raises:
    OSError: there is no such file.
    ValueError: it has nothing that the model takes, or an argument is out of
      range.
  """
  num_frames = round(max_secs / form.frame_secs)
  if num_frames < 1:
    raise ValueError(f'secs must be a frame or more, got {max_secs}.')
  if not 0 < crop <= 1:
    raise ValueError(f'crop must be in (0, 1], got {crop}.')
  sound, frames = np.zeros(0, np.int16), np.zeros((0, *form.size), np.uint8)
  errors = []
  if form.audio:
    try:
      sound = stored.read_sound(
        path, form.sample_rate_hz, num_frames * form.samples_per_frame
      )
    except ValueError as error:
      errors.append(str(error))
  if form.video:
    rate_hz = round(1 / form.frame_secs)
    try:
      files = stored.read_frames(path, rate_hz, num_frames, _SHORT_SIDE)
      frames = np.stack([_centre(file, form.size, crop) for file in files])
    except ValueError as error:
      errors.append(str(error))
  if not (len(sound) or len(frames)):
    raise ValueError('; '.join(errors))
  return Recording(sound, frames)


def _centre(
  file: bytes, size: tuple[int, int, int], crop: float
) -> UInt8[np.ndarray, 'Y X C']:
  """Returns the middle of a frame in a size."""
  is_grey = size[2] == 1
  mode = cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR_RGB
  image = cv2.imdecode(np.frombuffer(file, np.uint8), mode)
  window = centre_window(*image.shape[:2], crop)
  return resize_bytes(window.of(image), *size[:2]).reshape(size)


def check_image_path(path: Path) -> None:
  """Checks that an image can be written, before the work for it is done.

  Raises:
    OSError: there is no such directory.
    ValueError: no such kind of image can be written.
  """
  _check_directory(path)
  if not cv2.haveImageWriter(str(path)):
    raise ValueError(
      f'{path} must end in the name of a kind of image, such as .png.'
    )


def check_array_path(path: Path) -> None:
  """Checks that `numpy.save` writes a file under this very name.

  Raises:
    OSError: there is no such directory.
    ValueError: the name has another ending.
  """
  _check_directory(path)
  if not str(path).endswith('.npy'):
    raise ValueError(f'{path} must end in .npy.')


def check_video_path(path: Path) -> None:
  """Checks that a video can be written, by writing a short one elsewhere.

  Raises:
    OSError: there is no such directory.
    ValueError: no such kind of video can be written.
  """
  _check_directory(path)
  video = np.zeros((2, 2, 2, 3), np.uint8)
  audio = np.zeros((3840, 1), np.float32)
  with tempfile.TemporaryDirectory() as directory:
    trial = pathlib.Path(directory, pathlib.Path(path).name)
    write_video(trial, video, audio, 25, 48_000)


def _check_directory(path: Path) -> None:
  directory = pathlib.Path(path).parent
  if not directory.is_dir():
    raise FileNotFoundError(f'{directory} must be a directory, got none.')


def write_image(path: Path, image: UInt8[np.ndarray, 'Y X C']) -> None:
  """Writes a PNG or whatever else the name of the file ends in.

  Raises:
    OSError: the file cannot be written.
    ValueError: no such kind of image can be written.
  """
  check_image_path(path)
  _, data = cv2.imencode(pathlib.Path(path).suffix, image[..., ::-1])
  pathlib.Path(path).write_bytes(data.tobytes())


def write_video(
  path: Path,
  video: UInt8[np.ndarray, 'T Y X 3'],
  audio: Float[np.ndarray, 'S c'],
  frame_rate_hz: float,
  sample_rate_hz: int,
) -> None:
  """Writes video and sound to a file such as an MP4.

  Raises:
    ValueError: the name of the file ends in no kind of video, or it cannot be
      written.
  """
  _, rows, columns, _ = video.shape
  with tempfile.TemporaryDirectory() as directory:
    sound = os.path.join(directory, 'sound')
    audio.astype('<f4').tofile(sound)
    source = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{columns}x{rows}']
    source += ['-r', frame_rate_hz, '-i', '-', '-f', 'f32le']
    source += ['-ar', sample_rate_hz, '-ac', audio.shape[1], '-i', sound]
    # Most players want this format, which wants even sizes.
    even = 'pad=ceil(iw/2)*2:ceil(ih/2)*2'
    target = ['-map', '0:v', '-map', '1:a', '-vf', even]
    target += ['-pix_fmt', 'yuv420p', '-y', path]
    rule = f'{path} must end in the name of a kind of video, such as .mp4'
    ffmpeg.run(f'{rule}, and be writable', source + target, video.tobytes())
