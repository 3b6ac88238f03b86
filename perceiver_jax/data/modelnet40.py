"""ModelNet40: clouds of points on CAD models of 40 classes of things.

To prepare it, get either of the two archives that `modelnet40_builder` names,
unpack it into a directory DIR, and run

  python -m perceiver_jax.data.modelnet40 modelnet40/meshes --manual_dir=DIR

or modelnet40/point_sets; `--data_dir` says where the data set goes. Meshes that
cannot be read are left out; modelnet40/meshes/1.0.0/metadata.json in there then
names each and says why. A class without meshes is an error, and a warning says
which split has not as many examples as the published one.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds

from perceiver_jax.buckets import absolute, os_errors
from perceiver_jax.data import records
from perceiver_jax.data.modelnet40_builder import SKIPPED, ModelNet40
from perceiver_jax.data.points import PointsData

_log = logging.getLogger(__name__)

_COMMAND = 'python -m perceiver_jax.data.modelnet40'
_FORMS = tuple(
  f'{ModelNet40.name}/{config.name}' for config in ModelNet40.BUILDER_CONFIGS
)


class ModelNet40Data(PointsData):
  """2,048 points of each model; the data set must be prepared.

  Attributes:
    name: of the data set: 'modelnet40/meshes' or 'modelnet40/point_sets'.
  """

  train_split: str = 'train'
  eval_split: str = 'test'
  name: str = 'modelnet40/meshes'

  def validate(self) -> None:
    super().validate()
    if self.name not in _FORMS:
      raise ValueError(f'name must be one of {_FORMS}, got {self.name!r}.')

  def builder(self) -> tfds.core.DatasetBuilder:
    command = f'{_COMMAND} {self.name} --manual_dir=DIR'
    return records.prepared_builder(self.name, self.data_dir, command)


def prepare(
  name: str,
  manual_dir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None,
  file_format: str,
) -> tfds.core.DatasetBuilder:
  """Prepares the data set, unless it is prepared already.

  Args:
    name: 'modelnet40/meshes' or 'modelnet40/point_sets'.
    manual_dir: has the unpacked archive.
    data_dir: the TFDS directory, None for the default one.
    file_format: one of `records.FILE_FORMATS`.

  Returns:
    The builder of the prepared data.

  Raises:
    FileNotFoundError: the unpacked archive is not in `manual_dir`.
    OSError: the data cannot be written.
    ValueError: the files are not those of ModelNet40, or the format is another.
  """
  if file_format not in records.FILE_FORMATS:
    raise ValueError(
      f'file_format must be one of {records.FILE_FORMATS}, for those can be '
      f'read at random, got {file_format!r}.'
    )
  builder = tfds.builder(name, data_dir=data_dir)
  manual_dir = absolute(manual_dir)
  directory = builder.builder_config.directory
  if not (builder.is_prepared() or (manual_dir / directory).is_dir()):
    raise FileNotFoundError(
      f'{manual_dir} must hold {directory}, the unpacked archive, for {name}, '
      'got no such directory.'
    )
  if builder.is_prepared():
    _log.warning(
      '%s is prepared already, as %s, and stays as it is.',
      builder.data_path,
      builder.info.file_format.value,
    )
  with records.os_errors():
    builder.download_and_prepare(
      file_format=file_format,
      download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
    )
  return builder


def main(argv: Sequence[str] | None = None) -> None:
  """Prepares the data set as the command line says.

  Raises:
    SystemExit: something is wrong; it holds one line that says what.
  """
  parser = argparse.ArgumentParser(prog=_COMMAND, description='Prepares it.')
  parser.add_argument('name', choices=_FORMS)
  parser.add_argument('--manual_dir', required=True, help='unpacked archive')
  parser.add_argument('--data_dir', help='TFDS directory')
  parser.add_argument('--file_format', default='array_record')
  arguments = parser.parse_args(argv)
  try:
    with os_errors():
      builder = prepare(**vars(arguments))
  except (ValueError, OSError, ImportError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  for split, info in builder.info.splits.items():
    left_out = builder.info.metadata[SKIPPED].get(split, ())
    print(f'{split}: {info.num_examples} examples, {len(left_out)} left out')
  print(f'{builder.data_path}: the prepared data')


if __name__ == '__main__':
  main()
