"""AudioSet prepared from lists and clips, or merged from prepared parts."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds
from etils import epath

from perceiver_jax.buckets import absolute
from perceiver_jax.data.audioset import cluster, contents, files, report
from perceiver_jax.data.audioset.builder import (
  CLIPS_DIRECTORY,
  Audioset,
  Preparation,
)
from perceiver_jax.data.audioset.plan import Plan
from perceiver_jax.data.audioset.segments import CLASSES_FILE

Path = str | os.PathLike[str]

FILE_FORMAT = 'array_record'

_log = logging.getLogger(__name__)


def prepare(
  manual_dir: Path,
  data_dir: Path,
  preparation: Preparation | None = None,
  beam_options: Sequence[str] | None = None,
) -> Audioset:
  """Prepares AudioSet as array_record, unless it is prepared already.

  What an earlier run has finished is not done again.

  Args:
    manual_dir: with the lists and the clips; see `Audioset`.
    data_dir: the TFDS directory to write to.
    preparation: how to do it.
    beam_options: if Beam is to do it, the flags of its pipeline, such as
      `['--runner=DirectRunner']`.

  Returns:
    The builder of the prepared data.

  Raises:
    OSError: a list or the clips are missing, or there is no FFmpeg.
    ValueError: a list is wrong, or a flag of Beam.
    ImportError: Beam is not installed.
  """
  manual_dir = absolute(manual_dir)
  needed = (CLASSES_FILE, CLIPS_DIRECTORY)
  missing = [name for name in needed if not (manual_dir / name).exists()]
  if missing:
    raise FileNotFoundError(
      f'{manual_dir} must hold {CLASSES_FILE}, lists of segments and '
      f'{CLIPS_DIRECTORY}, got no {" and no ".join(missing)}.'
    )
  builder = Audioset(
    data_dir=absolute(data_dir),
    file_format=FILE_FORMAT,
    preparation=preparation,
  )
  if builder.data_path.exists():
    _log.warning(
      '%s is prepared already, and stays as it is; prepare other lists, clips '
      'or parts in another data_dir.',
      builder.data_path,
    )
    builder.remove_unfinished()  # A killed run may have left some of it.
  config = tfds.download.DownloadConfig(manual_dir=manual_dir)
  if beam_options is not None:
    config.beam_options = cluster.pipeline_options(beam_options)
  # TFDS prints, and stdout may be somebody's JSON.
  with contextlib.redirect_stdout(sys.stderr):
    builder.download_and_prepare(download_config=config)
  return builder


def merge(data_dirs: Sequence[Path], data_dir: Path) -> Audioset:
  """Makes one data set of parts that several machines have prepared.

  Args:
    data_dirs: the TFDS directories of the parts, in the order in which their
      examples shall be.
    data_dir: the TFDS directory to write to. Files are hard links where that
      is possible, otherwise copies; the parts stay what they are.

  Returns:
    The builder of the merged data.

  Raises:
    OSError: the merged data exists already, or cannot be written.
    ValueError: there is no part in a directory, or one in another format than
      `prepare` writes, or they are not all the parts of the same lists, each
      once.
  """
  if len({absolute(directory) for directory in data_dirs}) < len(data_dirs):
    raise ValueError(f'parts must differ, got one twice: {list(data_dirs)}.')
  parts = [_prepared_part(directory) for directory in data_dirs]
  plan = Plan.joined(
    {str(part.data_dir_root): Plan.load(part.data_path) for part in parts}
  )
  builder = Audioset(data_dir=data_dir, file_format=FILE_FORMAT)
  ready = epath.Path(builder.data_path)
  if ready.exists():
    raise FileExistsError(f'{ready} must not exist yet, got it.')
  names = parts[0].info.features['labels'].feature.names
  merged = tfds.builder_from_directories([str(p.data_path) for p in parts])
  unfinished = ready.with_name(f'{ready.name}.unfinished')
  unfinished.rmtree(missing_ok=True)
  unfinished.mkdir(parents=True)
  builder.info.features['labels'].feature.names = names
  builder.info.set_splits(
    tfds.core.splits.SplitDict(
      _merge_split(split, unfinished) for split in merged.info.splits.values()
    )
  )
  for split in merged.info.splits:
    of_split = [
      contents.contents_of(part, split)
      for part in parts
      if split in part.info.splits
    ]
    merged_contents = contents.Contents.concatenated(of_split)
    contents.save(merged_contents, unfinished, split)
  report.merge_reports([epath.Path(p.data_path) for p in parts], unfinished)
  plan.save(unfinished)
  builder.info.write_to_directory(unfinished)
  unfinished.rename(ready)
  return Audioset(data_dir=data_dir)


def _prepared_part(data_dir: Path) -> Audioset:
  part = Audioset(data_dir=data_dir)
  if not part.is_prepared():
    raise ValueError(f'{data_dir} must hold prepared AudioSet, got none.')
  if part.info.file_format.value != FILE_FORMAT:
    raise ValueError(
      f'{part.data_path} must be of {FILE_FORMAT} files, got '
      f'{part.info.file_format.value}.'
    )
  return part


def _merge_split(
  split: tfds.core.SplitInfo, target: epath.Path
) -> tfds.core.SplitInfo:
  """Puts the files of all parts of a split into `target`, by new names."""
  template = tfds.core.ShardedFileTemplate(
    dataset_name=Audioset.name,
    data_dir=target,
    split=split.name,
    filetype_suffix=FILE_FORMAT,
  )
  instructions = split.file_instructions
  names = template.sharded_filepaths(len(instructions))
  for instruction, name in zip(instructions, names, strict=True):
    files.link_or_copy(epath.Path(instruction.filename), epath.Path(name))
  return tfds.core.SplitInfo(
    name=split.name,
    shard_lengths=[each.examples_in_shard for each in instructions],
    num_bytes=split.num_bytes,
  )
