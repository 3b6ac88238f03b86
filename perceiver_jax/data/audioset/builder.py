"""The TFDS builder `audioset`, over the official lists and a person's clips."""

import dataclasses
import os
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder

from perceiver_jax import ffmpeg
from perceiver_jax.buckets import is_in_bucket
from perceiver_jax.data.audioset import cluster, contents, segments
from perceiver_jax.data.audioset.clips import ClipFiles, begins_at
from perceiver_jax.data.audioset.files import move_or_link, whole_file
from perceiver_jax.data.audioset.plan import Plan
from perceiver_jax.data.audioset.report import write_report
from perceiver_jax.data.audioset.shards import (
  Shard,
  features,
  is_done,
  outcome_of,
  write_shard,
)
from perceiver_jax.progress import Progress
from perceiver_jax.whole_files import sync

CLIPS_DIRECTORY = 'clips'

_DESCRIPTION = """
AudioSet: ten seconds of each of two million videos, with the sounds that people
heard in them, 527 classes of sounds. The clips are those that the user has;
`report.json` beside the data says how many, `unusual.csv` which ones are
missing, damaged, silent, or without sound or pictures.
"""

_CITATION = """
@inproceedings{gemmeke2017audio,
  title={Audio Set: An ontology and human-labeled dataset for audio events},
  author={Gemmeke, Jort F. and Ellis, Daniel P. W. and Freedman, Dylan and
    Jansen, Aren and Lawrence, Wade and Moore, R. Channing and Plakal, Manoj and
    Ritter, Marvin},
  booktitle={IEEE ICASSP},
  year={2017}
}
"""


@dataclasses.dataclass(frozen=True)
class Preparation:
  """How the data is prepared.

  Attributes:
    num_threads: how many clips are read at once, each by its own FFmpeg. None
      is as many as there are cores; one if Beam, which uses them all, does it.
    segments_per_shard: how many segments of a list make one file; a clip of
      ten seconds takes about 5 MB of it. What is interrupted goes on after the
      last whole file.
    part: (i, n) for every n-th segment from the i-th on, i in 1..n.
  """

  num_threads: int | None = None
  segments_per_shard: int = 256
  part: tuple[int, int] = (1, 1)

  def __post_init__(self) -> None:
    for name in ('num_threads', 'segments_per_shard'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}.')
    number, count = self.part
    if not 1 <= number <= count:
      raise ValueError(f'part must be i of n with i in 1..n, got {self.part}.')


class Audioset(dataset_builder.FileReaderBuilder):
  """AudioSet; named `audioset` in TFDS.

  Splits `balanced_train`, `unbalanced_train` and `eval`, of which those are
  made whose lists are there. `features` says what an example is, `ClipFiles`
  how files of clips are named, `Remark` which ones are left out.

  Args:
    preparation: how to prepare the data.
    **kwargs: as for every builder of TFDS: data_dir, file_format, ...
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
  manual_dir must hold {segments.CLASSES_FILE}, one or more of
  {', '.join(map(segments.list_file, segments.SPLITS))}, all from
  research.google.com/audioset, and a directory `{CLIPS_DIRECTORY}` of files
  named by YouTube id and start, such as `--4gqARaEJE_0.000.mp4`.
  """

  def __init__(
    self, *, preparation: Preparation | None = None, **kwargs: Any
  ) -> None:
    self._preparation = preparation or Preparation()
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=features(None),  # Classes are read from the user's list.
      homepage='https://research.google.com/audioset/',
      citation=_CITATION,
    )

  def _download_and_prepare(
    self,
    dl_manager: tfds.download.DownloadManager,
    download_config: tfds.download.DownloadConfig,
  ) -> None:
    ffmpeg.executable()  # Lest its absence be noticed after minutes.
    manual_dir = epath.Path(dl_manager.manual_dir)
    shards = self._shards(manual_dir)
    plan = Plan.of(manual_dir, shards, self._preparation.part)
    self._begin(plan)
    self._write(
      [s for split in shards.values() for s in split], download_config
    )
    ready = epath.Path(self.data_path)  # For now, a directory beside it.
    outcomes = {}
    for split, of_split in shards.items():
      outcomes[split] = [outcome_of(shard.path) for shard in of_split]
      for shard in of_split:
        # TFDS deletes `ready` if anything goes wrong.
        source = epath.Path(shard.path)
        move_or_link(source, ready / source.name)
      contents.save(
        contents.Contents.joined(
          example for outcome in outcomes[split] for example in outcome.examples
        ),
        ready,
        split,
      )
    write_report(ready, outcomes)
    plan.save(ready)
    self.info.set_splits(
      tfds.core.splits.SplitDict(
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[outcome.num_examples for outcome in of_split],
          num_bytes=sum(outcome.num_bytes for outcome in of_split),
          filename_template=self._get_filename_template(split),
        )
        for split, of_split in outcomes.items()
      )
    )

  def _post_download_and_prepare_hook(self) -> None:
    ready = self.data_path
    if not is_in_bucket(ready):  # TFDS leaves when to write to the system.
      for path in (*ready.iterdir(), ready, ready.parent):
        sync(path)
    self.remove_unfinished()

  def remove_unfinished(self) -> None:
    """Removes what preparing needs no more once the data is there."""
    self._unfinished.rmtree(missing_ok=True)

  @property
  def _unfinished(self) -> epath.Path:
    """Where files lie that are whole, until all of them are."""
    return epath.Path(self.data_dir_root, f'{self.name}_unfinished')

  def _shards(self, manual_dir: epath.Path) -> dict[str, list[Shard]]:
    """Reads the lists and returns what is to be done for each split.

    Raises:
      OSError: a file or a directory is missing.
      ValueError: a list is wrong, or no segment has a file.
    """
    classes = segments.read_classes(manual_dir / segments.CLASSES_FILE)
    self.info.features['labels'].feature.names = list(classes.values())
    lists = {
      split: manual_dir / segments.list_file(split)
      for split in segments.SPLITS
      if (manual_dir / segments.list_file(split)).exists()
    }
    if not lists:
      names = ', '.join(map(segments.list_file, segments.SPLITS))
      raise FileNotFoundError(
        f'{manual_dir} must hold one of {names} at least, got none.'
      )
    listed = {
      split: segments.read_segments(path, list(classes))
      for split, path in lists.items()
    }
    segments.check_disjoint(listed)
    files = ClipFiles(manual_dir / CLIPS_DIRECTORY)
    shards = {
      split: self._shards_of(split, all_segments, files, list(classes.values()))
      for split, all_segments in listed.items()
    }
    self._check_any(
      manual_dir,
      [
        found
        for of_split in shards.values()
        for shard in of_split
        for found in shard.segments
      ],
    )
    return shards

  def _check_any(
    self,
    manual_dir: epath.Path,
    found: list[tuple[segments.Segment, str | None]],
  ) -> None:
    """Raises ValueError if no segment has a file."""
    others = [(segment, path) for segment, path in found if path is not None]
    if not any(begins_at(path, segment.start) for segment, path in others):
      number, count = self._preparation.part
      raise ValueError(
        f'{manual_dir / CLIPS_DIRECTORY} must have the clip of one listed '
        f'segment at least, got none of the {len(found)} of part '
        f'{number}/{count}, and for {len(others)} one that by its name begins '
        'at another time.'
      )

  def _shards_of(
    self,
    split: str,
    listed: list[segments.Segment],
    files: ClipFiles,
    class_names: list[str],
  ) -> list[Shard]:
    number, count = self._preparation.part
    listed = listed[number - 1 :: count]
    size = self._preparation.segments_per_shard
    template = self._get_filename_template(split).replace(
      data_dir=self._unfinished
    )
    chunks = [listed[i : i + size] for i in range(0, len(listed), size)]
    names = template.sharded_filepaths(len(chunks)) if chunks else []
    return [
      Shard(
        path=str(name),
        segments=[(segment, files.of(segment)) for segment in chunk],
        class_names=class_names,
        file_format=self.info.file_format.value,
      )
      for name, chunk in zip(names, chunks, strict=True)
    ]

  def _begin(self, plan: Plan) -> None:
    """Makes sure that files of an earlier run are made as these will be.

    Raises:
      ValueError: they are not.
    """
    begun = self._unfinished / 'begun'
    size = self._preparation.segments_per_shard
    how = repr((plan, size, self.info.file_format.value)).encode()
    found = begun.read_bytes() if begun.exists() else b''
    if not found:  # Who knows what a killed clean-up or a power cut has left.
      self.remove_unfinished()
      begun.parent.mkdir(parents=True, exist_ok=True)
      with whole_file(str(begun)) as path:
        epath.Path(path).write_bytes(how)
    elif found != how:
      raise ValueError(
        f'{begun.parent} must have been begun with the same lists and options, '
        'got others; go on with those, or delete it to begin anew.'
      )

  def _write(
    self, shards: list[Shard], download_config: tfds.download.DownloadConfig
  ) -> None:
    """Writes the shards that no earlier run is done with."""
    left = [shard for shard in shards if not is_done(shard.path)]
    num_threads = self._preparation.num_threads
    runner, options = download_config.beam_runner, download_config.beam_options
    if left and not (runner is None and options is None):
      cluster.write_shards(left, num_threads or 1, runner, options)
      return
    total = sum(len(shard.segments) for shard in shards)
    steps = total - sum(len(shard.segments) for shard in left)
    with Progress(total, 1, unit='clips') as progress:

      def on_segment() -> None:
        nonlocal steps
        steps += 1
        progress.update(steps)

      progress.update(steps)
      for shard in left:
        write_shard(shard, num_threads or os.cpu_count() or 1, on_segment)
