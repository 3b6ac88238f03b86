"""Prepares AudioSet, for `python -m` and for tests."""

import contextlib
import os
import pathlib
import sys

import tensorflow_datasets as tfds

from perceiver_jax.data.audioset.builder import Audioset, Preparation


def prepare(
  manual_dir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
  preparation: Preparation | None = None,
) -> Audioset:
  """Prepares AudioSet as array_record, unless it is prepared already.

  What an earlier run has finished is not done again.

  Args:
    manual_dir: with the lists and the clips; see `Audioset`.
    data_dir: the TFDS directory to write to.
    preparation: how to do it.

  Returns:
    The builder of the prepared data.

  Raises:
    OSError: a list or the clips are missing, or there is no FFmpeg.
    ValueError: a list is wrong.
  """
  manual_dir = pathlib.Path(manual_dir)
  if not manual_dir.is_dir():
    raise FileNotFoundError(f'{manual_dir} must be a directory, got none.')
  builder = Audioset(
    data_dir=data_dir, file_format='array_record', preparation=preparation
  )
  # TFDS prints, and stdout may be somebody's JSON.
  with contextlib.redirect_stdout(sys.stderr):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
  return builder
