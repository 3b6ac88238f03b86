"""FFmpeg, the program that reads and writes sound and video."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import imageio_ffmpeg

Path = str | os.PathLike[str]

# The exit status of FFmpeg after SIGTERM or SIGINT, which it catches.
_TOLD_TO_STOP = 255


def executable() -> str:
  """Returns the path of the program that `imageio-ffmpeg` brings or finds.

  Raises:
    OSError: there is none.
  """
  try:
    found = shutil.which(imageio_ffmpeg.get_ffmpeg_exe())
  except RuntimeError:
    found = None
  if found is None:
    raise FileNotFoundError(
      'ffmpeg must be installed, got none; `pip install imageio-ffmpeg` brings '
      'one for most machines, the variable IMAGEIO_FFMPEG_EXE names another.'
    )
  return found


def run(
  rule: str,
  arguments: Sequence[object],
  data: bytes = b'',
  max_secs: float | None = None,
) -> bytes:
  """Runs FFmpeg and returns its output.

  Args:
    rule: what the files must be for it not to fail.
    arguments: of the command.
    data: its input.
    max_secs: how long it may take, None for as long as it wants.

  Raises:
    OSError: there is no FFmpeg; or the file after `-i`, unless it is data, does
      not exist.
    ChildProcessError: FFmpeg takes too long or is killed, for want of memory
      say, which need not be the fault of the files.
    ValueError: FFmpeg fails; the message ends in its own, as one line.
  """
  path = arguments[arguments.index('-i') + 1]
  if path != '-' and not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'{path} must be a file, got none.')
  command = [executable(), '-v', 'error', *arguments]
  try:
    done = subprocess.run(
      list(map(str, command)),
      input=data,
      capture_output=True,
      check=False,
      timeout=max_secs,
    )
  except subprocess.TimeoutExpired as error:
    raise ChildProcessError(f'{rule}, got nothing in {max_secs} s.') from error
  if done.returncode < 0 or done.returncode == _TOLD_TO_STOP:
    raise ChildProcessError(
      f'{rule}, got an FFmpeg that was killed (exit status {done.returncode}); '
      'for want of memory, perhaps.'
    )
  if done.returncode:
    said = ' '.join(done.stderr.decode(errors='replace').split())
    raise ValueError(f'{rule}, got: {said}')
  return done.stdout
