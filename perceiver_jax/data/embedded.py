"""Data sets that need no download: prepared when they are first used."""

import contextlib
import sys

import tensorflow_datasets as tfds


def embedded_builder(
  builder_class: type[tfds.core.DatasetBuilder], data_dir: str | None
) -> tfds.core.DatasetBuilder:
  """Returns the builder of an embedded data set, which it prepares if need be.

  Args:
    builder_class: of the data set.
    data_dir: the TFDS directory, None for the default one.

  Raises:
    OSError: the data cannot be written.
  """
  builder = builder_class(data_dir=data_dir)
  if not builder.data_path.exists():
    _prepare(builder)
    # A builder that lost the race below does not know what the winner made.
    builder = builder_class(data_dir=data_dir)
  return builder


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
  """Prepares a data set, which other processes may be doing as well.

  Each works in its own directory and renames it at the end. The rename of all
  but the first fails, and they use what the first has made.
  """
  tfds.disable_progress_bar()
  # TFDS prints, and stdout may be somebody's JSON.
  with contextlib.redirect_stdout(sys.stderr):
    try:
      builder.download_and_prepare(file_format='array_record')
    except OSError:
      if not builder.data_path.exists():
        raise
