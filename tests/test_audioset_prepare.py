"""AudioSet prepared from what people have, however it is done."""

import csv
import json
import os
import pathlib
import shutil

import audioset_clips
import numpy as np
import pytest
import tensorflow_datasets as tfds
from audioset_tones import IDS, assert_same, read_examples
from etils import epath

from perceiver_jax.data.audioset import cluster
from perceiver_jax.data.audioset.builder import Audioset, Preparation
from perceiver_jax.data.audioset.clips import Remark, read_clip
from perceiver_jax.data.audioset.contents import contents_of
from perceiver_jax.data.audioset.prepare import prepare
from perceiver_jax.data.audioset.report import read_report, summary
from perceiver_jax.data.records import prepared_builder

ONE_EACH = Preparation(num_threads=1, segments_per_shard=1)


@pytest.fixture(scope='module')
def odd_clips(tmp_path_factory):
  """A directory with a file for each thing that can be wrong."""
  directory = tmp_path_factory.mktemp('odd')
  make = audioset_clips.make_clip
  make(directory / 'whole.mkv')
  make(directory / 'silent.mkv', hz=0)
  make(directory / 'audio_only.wav', size=None)
  make(directory / 'video_only.mp4', hz=None)
  make(directory / 'too_short.mp4', secs=1.2)
  make(directory / 'truncated.mp4', secs=1.8)
  whole = (directory / 'whole.mkv').read_bytes()
  # Matroska can be played from the beginning; MP4 needs its end.
  (directory / 'cut.mkv').write_bytes(whole[: len(whole) * 8 // 10])
  film = (directory / 'video_only.mp4').read_bytes()
  (directory / 'cut.mp4').write_bytes(film[: len(film) // 2])
  (directory / 'notes.mp4').write_text('not a film')
  (directory / 'empty.wav').write_bytes(b'')
  return directory


@pytest.mark.parametrize(
  ('name', 'remarks', 'has_sound', 'has_frames'),
  [
    ('whole.mkv', [], True, True),
    ('silent.mkv', [Remark.SILENT], True, True),
    ('audio_only.wav', [Remark.AUDIO_ONLY], True, False),
    ('video_only.mp4', [Remark.VIDEO_ONLY], False, True),
    ('too_short.mp4', [Remark.TOO_SHORT], False, False),
    ('truncated.mp4', [Remark.TRUNCATED], True, True),
    ('cut.mkv', [Remark.TRUNCATED], True, True),
    ('cut.mp4', [Remark.UNREADABLE], False, False),
    ('notes.mp4', [Remark.UNREADABLE], False, False),
    ('empty.wav', [Remark.UNREADABLE], False, False),
  ],
)
def test_what_is_wrong_with_a_clip_is_said(
  name, remarks, has_sound, has_frames, odd_clips
):
  clip = read_clip(str(odd_clips / name), 2.0)
  assert list(clip.remarks) == remarks
  assert clip.is_left_out is not (has_sound or has_frames)
  assert (len(clip.sound) > 0, len(clip.frames) > 0) == (has_sound, has_frames)
  if Remark.UNREADABLE in remarks:
    assert name in clip.detail
  what = {Remark.AUDIO_ONLY: 'frames', Remark.VIDEO_ONLY: 'sound'}
  for remark in what.keys() & remarks:
    rule = f'{odd_clips / name} must have {what[remark]} that can be read'
    assert clip.detail == f'{rule}, got none.'


def test_a_missing_clip_is_said():
  assert read_clip(None, 2.0).remarks == (Remark.MISSING,)


def test_a_link_to_nowhere_is_a_missing_clip(tmp_path):
  (tmp_path / 'a.mp4').symlink_to(tmp_path / 'nowhere')
  clip = read_clip(str(tmp_path / 'a.mp4'), 2.0)
  assert clip.remarks == (Remark.MISSING,)
  assert 'a.mp4 is no file' in clip.detail


def test_segments_that_are_not_whole_are_counted_by_reason(odd_clips, tmp_path):
  names = [path.name for path in sorted(odd_clips.iterdir())]
  ids = {name: f'{name:_<11.11}'.replace('.', '-') for name in names}
  segments = [(video_id, 0, 2, [1]) for video_id in ids.values()]
  segments.append(('nothing-at-', 0, 2, [1]))
  segments.append(('later-later', 0, 2, [1]))
  manual_dir = tmp_path / 'manual'
  (manual_dir / 'clips').mkdir(parents=True)
  audioset_clips.write_classes(manual_dir)
  audioset_clips.write_list(manual_dir, 'balanced_train', segments)
  for name, video_id in ids.items():
    suffix = pathlib.Path(name).suffix
    (manual_dir / 'clips' / f'{video_id}_0{suffix}').symlink_to(
      odd_clips / name
    )
  (manual_dir / 'clips' / 'later-later_5.mkv').symlink_to(
    odd_clips / 'whole.mkv'
  )
  # The files of some shards have no example at all.
  prepare(manual_dir, tmp_path, ONE_EACH)
  ready = tmp_path / 'audioset' / '1.0.0'
  assert json.loads((ready / 'report.json').read_text()) == {
    'balanced_train': {
      'listed': 12,
      'prepared': 6,
      'missing': 1,
      'other_start': 1,
      'killed': 0,
      'unreadable': 3,
      'too_short': 1,
      'truncated': 2,
      'silent': 1,
      'audio_only': 1,
      'video_only': 1,
    }
  }
  with (ready / 'unusual.csv').open() as file:
    rows = {row['video_id']: row for row in csv.DictReader(file)}
  assert len(rows) == 11
  assert rows['later-later']['remarks'] == 'other_start'
  assert 'later-later_5.mkv must begin at 0' in rows['later-later']['detail']
  assert rows[ids['notes.mp4']]['remarks'] == 'unreadable'
  assert 'notes-mp4___0.mp4' in rows[ids['notes.mp4']]['detail']
  examples = read_examples(tmp_path, 'balanced_train')
  assert [example['video_id'].decode() for example in examples] == [
    ids[name]
    for name in names
    if name not in ('cut.mp4', 'notes.mp4', 'empty.wav', 'too_short.mp4')
  ]


def test_a_clip_may_be_below_a_directory_whose_name_is_not_utf8(
  tones_manual_dir, tones_dir, tmp_path
):
  manual_dir = tmp_path / 'manual'
  shutil.copytree(tones_manual_dir, manual_dir)
  odd = manual_dir / 'clips' / os.fsdecode(b'caf\xe9')
  odd.mkdir()
  name = f'{IDS[1]}_3.wav'
  (manual_dir / 'clips' / name).rename(odd / name)
  prepare(manual_dir, tmp_path)
  assert_same(read_examples(tmp_path), read_examples(tones_dir))
  unusual = tmp_path / 'audioset' / '1.0.0' / 'unusual.csv'
  with unusual.open(encoding='utf-8') as file:
    details = {row['video_id']: row['detail'] for row in csv.DictReader(file)}
  assert rf'/clips/caf\xe9/{name} must have frames' in details[IDS[1]]


def test_examples_do_not_depend_on_shards_and_threads(
  tones_manual_dir, tones_dir, tmp_path
):
  prepare(tones_manual_dir, tmp_path, ONE_EACH)
  names = {path.name for path in (tmp_path / 'audioset' / '1.0.0').iterdir()}
  assert 'audioset-eval.array_record-00006-of-00007' in names
  assert_same(read_examples(tmp_path), read_examples(tones_dir))
  # Nothing is left of the work but what TFDS itself leaves.
  assert {p.name for p in tmp_path.iterdir()} <= {'audioset', 'downloads'}


def test_beam_makes_the_same_data_and_report(
  tones_manual_dir, tones_dir, tmp_path
):
  pytest.importorskip('apache_beam')
  options = ['--runner=DirectRunner']
  prepare(
    tones_manual_dir, tmp_path, Preparation(segments_per_shard=2), options
  )
  assert_same(read_examples(tmp_path), read_examples(tones_dir))
  for name in ('report.json', 'unusual.csv'):
    assert (tmp_path / 'audioset' / '1.0.0' / name).read_text() == (
      tones_dir / 'audioset' / '1.0.0' / name
    ).read_text()
  found, expected = (
    contents_of(prepared_builder('audioset', str(directory)), 'eval')
    for directory in (tmp_path, tones_dir)
  )
  for actual, array in zip(found, expected, strict=True):
    np.testing.assert_array_equal(actual, array)


def test_workers_get_paths_that_hold_in_any_directory(
  tones_manual_dir, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'here').symlink_to(tones_manual_dir)
  paths = []

  def record(shards, *_):
    for shard in shards:
      paths.append(shard.path)
      paths.extend(path for _, path in shard.segments)
    raise InterruptedError

  monkeypatch.setattr(cluster, 'pipeline_options', list)
  monkeypatch.setattr(cluster, 'write_shards', record)
  with pytest.raises(InterruptedError):
    prepare('here', 'data', ONE_EACH, ['--runner=DirectRunner'])
  assert len(paths) == 14
  assert all(os.path.isabs(path) for path in paths)


def test_tfds_options_of_beam_are_followed(
  tones_manual_dir, tones_dir, tmp_path
):
  beam = pytest.importorskip('apache_beam')
  runner = beam.runners.DirectRunner()
  seen = []
  run = type(runner).run_pipeline
  type(runner).run_pipeline = lambda *a: seen.append(a) or run(*a)
  try:
    Audioset(data_dir=tmp_path, file_format='tfrecord').download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        manual_dir=tones_manual_dir, beam_runner=runner
      )
    )
  finally:
    type(runner).run_pipeline = run
  assert len(seen) == 1
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


def test_a_report_has_no_clips_of_reasons_that_are_new(tmp_path):
  counts = {'eval': {'listed': 3, 'prepared': 2, 'missing': 1}}
  (tmp_path / 'report.json').write_text(json.dumps(counts))
  text = summary(read_report(epath.Path(tmp_path)))
  assert text.startswith('eval: prepared 2 of 3 (left out: 1 missing, ')
  assert '0 killed' in text


def test_data_in_a_bucket_is_prepared(
  tones_manual_dir, tones_dir, tmp_path, monkeypatch
):
  """A bucket is a directory here, under names that only epath knows."""
  (tmp_path / 'manual').symlink_to(tones_manual_dir)
  monkeypatch.setattr(epath.gpath, '_is_tf_installed', lambda: False)

  def here(path):
    return str(path).replace('s3://bucket', str(tmp_path))

  def there(path):
    return str(path).replace(str(tmp_path), 's3://bucket')

  def redirected(function, *paths, **options):
    return function(*map(here, paths), **options)

  def walk(function, top, **_):
    for directory, *names in os.walk(here(top), followlinks=True):
      yield there(directory), *names

  def glob(function, pattern):
    return map(there, function(here(pattern)))

  names = (
    'copy exists isdir listdir makedirs mkdir open remove rename replace '
    'rmtree stat'
  )
  mocks = dict.fromkeys(names.split(), redirected)
  with epath.testing.mock_epath(**mocks, walk=walk, glob=glob):
    prepare('s3://bucket/manual', 's3://bucket/data', ONE_EACH)
  assert_same(read_examples(tmp_path / 'data'), read_examples(tones_dir))
