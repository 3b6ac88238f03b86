"""AudioSet prepared from what people have: damaged, in parts, interrupted."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import audioset_clips
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from perceiver_jax import ffmpeg
from perceiver_jax.data.audioset import cluster
from perceiver_jax.data.audioset.__main__ import main
from perceiver_jax.data.audioset.builder import Audioset, Preparation
from perceiver_jax.data.audioset.clips import Remark, read_clip
from perceiver_jax.data.audioset.contents import contents_of
from perceiver_jax.data.audioset.plan import Plan
from perceiver_jax.data.audioset.prepare import merge, prepare
from perceiver_jax.data.audioset.report import read_report, summary
from perceiver_jax.data.records import Records, prepared_builder

IDS = [f'clip-number{number}'[-11:] for number in range(7)]
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


def _write_manual_dir(directory, ids, split='eval', **options):
  """Writes lists, and a clip of a tone for each id, each of its own pitch."""
  audioset_clips.write_classes(directory)
  audioset_clips.write_list(
    directory, split, [(video_id, 3, 5, [0]) for video_id in ids]
  )
  for video_id in ids:
    audioset_clips.make_clip(
      directory / 'clips' / f'{video_id}_3.wav',
      hz=500 + 100 * IDS.index(video_id),
      **{'size': None} | options,
    )


@pytest.fixture(scope='module')
def manual_dir(tmp_path_factory):
  directory = tmp_path_factory.mktemp('manual')
  _write_manual_dir(directory, IDS)
  return directory


@pytest.fixture(scope='module')
def data_dir(manual_dir, tmp_path_factory):
  directory = tmp_path_factory.mktemp('tfds')
  prepare(manual_dir, directory)
  return directory


def _examples(data_dir, split='eval'):
  records = Records(prepared_builder('audioset', str(data_dir)), split)
  return [records[index] for index in range(len(records))]


def _assert_same(actual, expected):
  assert [e['video_id'] for e in actual] == [e['video_id'] for e in expected]
  for one, other in zip(actual, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


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
  examples = _examples(tmp_path, 'balanced_train')
  assert [example['video_id'].decode() for example in examples] == [
    ids[name]
    for name in names
    if name not in ('cut.mp4', 'notes.mp4', 'empty.wav', 'too_short.mp4')
  ]


def test_examples_do_not_depend_on_shards_and_threads(
  manual_dir, data_dir, tmp_path
):
  prepare(manual_dir, tmp_path, ONE_EACH)
  names = {path.name for path in (tmp_path / 'audioset' / '1.0.0').iterdir()}
  assert 'audioset-eval.array_record-00006-of-00007' in names
  _assert_same(_examples(tmp_path), _examples(data_dir))
  # Nothing is left of the work but what TFDS itself leaves.
  assert {p.name for p in tmp_path.iterdir()} <= {'audioset', 'downloads'}


def test_beam_makes_the_same_data_and_report(manual_dir, data_dir, tmp_path):
  pytest.importorskip('apache_beam')
  options = ['--runner=DirectRunner']
  prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2), options)
  _assert_same(_examples(tmp_path), _examples(data_dir))
  for name in ('report.json', 'unusual.csv'):
    assert (tmp_path / 'audioset' / '1.0.0' / name).read_text() == (
      data_dir / 'audioset' / '1.0.0' / name
    ).read_text()
  found, expected = (
    contents_of(prepared_builder('audioset', str(directory)), 'eval')
    for directory in (tmp_path, data_dir)
  )
  for actual, array in zip(found, expected, strict=True):
    np.testing.assert_array_equal(actual, array)


def test_workers_get_paths_that_hold_in_any_directory(
  manual_dir, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'here').symlink_to(manual_dir)
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


def test_tfds_options_of_beam_are_followed(manual_dir, data_dir, tmp_path):
  beam = pytest.importorskip('apache_beam')
  runner = beam.runners.DirectRunner()
  seen = []
  run = type(runner).run_pipeline
  type(runner).run_pipeline = lambda *a: seen.append(a) or run(*a)
  try:
    Audioset(data_dir=tmp_path, file_format='tfrecord').download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        manual_dir=manual_dir, beam_runner=runner
      )
    )
  finally:
    type(runner).run_pipeline = run
  assert len(seen) == 1
  _assert_same(_examples(tmp_path), _examples(data_dir))


_WAITING_FFMPEG = """\
#!/bin/sh
for argument in "$@"; do
  case "$argument" in *.wav) echo "$argument" >> {log};; esac
  case "$argument" in
    *{video_id}*) until [ -e {go} ]; do sleep 0.05; done;;
  esac
done
exec {ffmpeg} "$@"
"""


@pytest.mark.parametrize('blow', [signal.SIGKILL, signal.SIGINT])
def test_killed_preparation_goes_on_where_it_stopped(
  blow, manual_dir, data_dir, tmp_path
):
  # At the first clip of the third file it waits for the blow.
  log, go, waiting = (tmp_path / name for name in ('log', 'go', 'ffmpeg'))
  waiting.write_text(
    _WAITING_FFMPEG.format(
      log=log, go=go, video_id=IDS[4], ffmpeg=ffmpeg.executable()
    )
  )
  waiting.chmod(0o755)
  command = [sys.executable, '-m', 'perceiver_jax.data.audioset', 'prepare']
  command += [f'--manual_dir={manual_dir}', f'--data_dir={tmp_path}']
  command += ['--segments_per_shard=2', '--num_threads=1']
  environment = os.environ | {'IMAGEIO_FFMPEG_EXE': str(waiting)}
  # Where a shell runs the tests in the background, they ignore SIGINT, and so
  # would what they start.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  first = subprocess.Popen(
    command, env=environment, stderr=subprocess.PIPE, text=True
  )
  signal.signal(signal.SIGINT, before)
  unfinished = tmp_path / 'audioset_unfinished'
  deadline = time.monotonic() + 180
  try:
    while not list(unfinished.glob('*00001-of-00004.done.json')):
      assert time.monotonic() < deadline and first.poll() is None
      time.sleep(0.01)
    first.send_signal(blow)
  finally:
    go.touch()
  _, said = first.communicate(timeout=60)
  if blow == signal.SIGINT:
    assert said.endswith('the same command goes on where this one stopped.\n')
    assert 'Traceback' not in said
  assert not (tmp_path / 'audioset' / '1.0.0').exists()
  log.unlink()
  second = subprocess.run(
    command, env=environment, check=True, capture_output=True, text=True
  )
  # Of seven clips, four were in whole files.
  read_again = {pathlib.Path(line).name for line in log.read_text().split()}
  assert read_again == {f'{video_id}_3.wav' for video_id in IDS[4:]}
  assert 'step 4/7 (57%)' in second.stderr
  assert 'step 7/7 (100%)' in second.stderr
  assert 'eval: prepared 7 of 7' in second.stdout
  _assert_same(_examples(tmp_path), _examples(data_dir))


_KILLED_FFMPEG = """\
#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    *{video_id}*) echo "$argument" >> {log}; kill -KILL $$;;
  esac
done
exec {ffmpeg} "$@"
"""


@pytest.fixture
def killed_ffmpeg(tmp_path, monkeypatch):
  """A directory with an FFmpeg that one of the clips gets killed, and its log.

  Two segments make a shard, of which the second is killed with clip 2.
  """
  killed, log = tmp_path / 'ffmpeg', tmp_path / 'log'
  killed.write_text(
    _KILLED_FFMPEG.format(video_id=IDS[2], log=log, ffmpeg=ffmpeg.executable())
  )
  killed.chmod(0o755)
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(killed))
  return log


def test_clip_whose_ffmpeg_is_killed_is_tried_twice_and_counted(
  killed_ffmpeg, manual_dir, tmp_path
):
  prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2))
  ready = tmp_path / 'audioset' / '1.0.0'
  counts = json.loads((ready / 'report.json').read_text())['eval']
  assert (counts['prepared'], counts['killed'], counts['unreadable']) == (
    6,
    1,
    0,
  )
  assert len(killed_ffmpeg.read_text().splitlines()) == 2
  rows = list(csv.DictReader((ready / 'unusual.csv').open()))
  (row,) = (row for row in rows if row['remarks'] == 'killed')
  assert row['video_id'] == IDS[2] and 'was killed' in row['detail']


def test_clip_whose_ffmpeg_was_killed_is_tried_again_by_a_resume(
  killed_ffmpeg, manual_dir, data_dir, tmp_path, monkeypatch
):
  # The run ends when all shards are there, before they are put together.
  monkeypatch.setattr(
    'perceiver_jax.data.audioset.builder.write_report', _interrupt
  )
  with pytest.raises(InterruptedError):
    prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2))
  before = _times(tmp_path / 'audioset_unfinished')
  monkeypatch.undo()
  prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2))
  after = _times(tmp_path / 'audioset' / '1.0.0')
  assert len(before) == 4
  assert [name for name in after if after[name] != before[name]] == [
    'audioset-eval.array_record-00001-of-00004'
  ]
  _assert_same(_examples(tmp_path), _examples(data_dir))


def test_file_that_a_killed_run_moved_away_is_made_again(
  manual_dir, data_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    'perceiver_jax.data.audioset.builder.write_report', _interrupt
  )
  with pytest.raises(InterruptedError):
    prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2))
  monkeypatch.undo()
  (moved,) = (tmp_path / 'audioset_unfinished').glob('*-00001-of-00004')
  moved.unlink()
  prepare(manual_dir, tmp_path, Preparation(segments_per_shard=2))
  _assert_same(_examples(tmp_path), _examples(data_dir))


def _interrupt(*_):
  raise InterruptedError


def _times(directory):
  """Returns when each shard was written."""
  return {
    path.name: path.stat().st_mtime_ns
    for path in sorted(directory.glob('*-of-0000?'))
  }


def test_what_is_prepared_already_stays_and_this_is_said(
  manual_dir, data_dir, caplog
):
  report = data_dir / 'audioset' / '1.0.0' / 'report.json'
  before = report.stat().st_mtime_ns
  prepare(manual_dir, data_dir, Preparation(part=(2, 2)))
  assert f'{report.parent} is prepared already' in caplog.text
  assert report.stat().st_mtime_ns == before


def test_a_report_has_no_clips_of_reasons_that_are_new(tmp_path):
  counts = {'eval': {'listed': 3, 'prepared': 2, 'missing': 1}}
  (tmp_path / 'report.json').write_text(json.dumps(counts))
  text = summary(read_report(epath.Path(tmp_path)))
  assert text.startswith('eval: prepared 2 of 3 (left out: 1 missing, ')
  assert '0 killed' in text


def test_going_on_with_other_lists_is_refused(manual_dir, tmp_path):
  unfinished = tmp_path / 'audioset_unfinished'
  unfinished.mkdir()
  (unfinished / 'begun').write_text('another')
  with pytest.raises(ValueError, match=f'{unfinished} must have been begun'):
    prepare(manual_dir, tmp_path)
  assert (unfinished / 'begun').read_text() == 'another'


def test_parts_of_several_machines_are_merged(manual_dir, data_dir, tmp_path):
  parts = [tmp_path / 'one', tmp_path / 'two']
  for number, part in enumerate(parts):
    prepare(manual_dir, part, Preparation(part=(number + 1, 2)))
  merge(parts, tmp_path)
  by_id = {e['video_id']: e for e in _examples(data_dir)}
  expected = [by_id[i.encode()] for i in IDS[::2] + IDS[1::2]]
  _assert_same(_examples(tmp_path), expected)
  assert Plan.load(tmp_path / 'audioset' / '1.0.0') == Plan.load(
    data_dir / 'audioset' / '1.0.0'
  )
  # TFDS itself reads them as one, without a merge.
  together = tfds.builder_from_directories(
    [str(part / 'audioset' / '1.0.0') for part in parts]
  )
  _assert_same(list(together.as_data_source('eval')), expected)
  report = json.loads(
    (tmp_path / 'audioset' / '1.0.0' / 'report.json').read_text()
  )
  assert report['eval']['prepared'] == report['eval']['audio_only'] == 7
  unusual = (tmp_path / 'audioset' / '1.0.0' / 'unusual.csv').read_text()
  assert [line.split(',')[1] for line in unusual.splitlines()] == [
    'video_id',
    *IDS[::2],
    *IDS[1::2],
  ]


def test_parts_that_do_not_fit_are_refused(data_dir, tmp_path):
  with pytest.raises(ValueError, match='none must hold prepared AudioSet'):
    merge([data_dir, tmp_path / 'none'], tmp_path)
  with pytest.raises(FileExistsError, match='1.0.0 must not exist yet'):
    merge([data_dir], data_dir)


def test_part_prepared_twice_is_refused(manual_dir, tmp_path):
  parts = [tmp_path / 'one', tmp_path / 'again']
  for part in parts:
    prepare(manual_dir, part, Preparation(part=(1, 2)))
  with pytest.raises(
    SystemExit,
    match=r'parts of eval_segments.csv must be 1/2 to 2/2, each once, got 1/2 '
    f'in {parts[0]}, 1/2 in {parts[1]}.$',
  ):
    main(['merge', *map(str, parts), f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'audioset').exists()


_TRAIN, _EVAL = ({split: split} for split in ('balanced_train', 'eval'))
_BOTH = _TRAIN | _EVAL


@pytest.mark.parametrize(
  ('plans', 'message'),
  [
    ([(_EVAL, (1, 1)), (_EVAL, (1, 1))], '1/1, each once, got 1/1 in 0, 1/1'),
    ([(_EVAL, (2, 3)), (_EVAL, (1, 3))], '1/3 to 3/3, each once, got 2/3 in 0'),
    ([(_EVAL, (1, 2)), (_EVAL, (2, 3))], '1/2 to 2/2, each once, got 1/2 in 0'),
    ([(_BOTH, (1, 2)), (_EVAL, (2, 2))], 'of balanced_train_segments.csv must'),
    (
      [(_BOTH, (1, 2)), (_BOTH | {'eval': 'x'}, (2, 2))],
      '1 must be of the eval_segments.csv of 0, got another',
    ),
    ([(_EVAL, (1, 1), 'x'), (_TRAIN, (1, 1))], 'indices.csv of 0, got another'),
  ],
)
def test_plans_that_are_not_all_parts_of_the_same_are_refused(plans, message):
  with pytest.raises(ValueError, match=message):
    _join(*plans)


def test_plans_are_joined_split_by_split():
  whole = _join((_BOTH, (3, 3)), (_BOTH, (1, 3)), (_BOTH, (2, 3)))
  assert whole == Plan('classes', _BOTH, (1, 1))
  assert _join((_TRAIN, (1, 1)), (_EVAL, (1, 1))) == whole


def _join(*plans):
  return Plan.joined(
    {
      str(name): Plan(*classes or ('classes',), lists, part)
      for name, (lists, part, *classes) in enumerate(plans)
    }
  )


def test_part_without_a_plan_is_refused(manual_dir, tmp_path):
  prepare(manual_dir, tmp_path)
  ready = tmp_path / 'audioset' / '1.0.0'
  assert Plan.load(ready).part == (1, 1)
  (ready / 'plan.json').unlink()
  with pytest.raises(ValueError, match=f'{ready}/plan.json must say which'):
    merge([tmp_path], tmp_path / 'merged')


def test_part_in_another_format_is_refused(manual_dir, data_dir, tmp_path):
  Audioset(data_dir=tmp_path, file_format='tfrecord').download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
  )
  with pytest.raises(ValueError, match='of array_record files, got tfrecord.$'):
    merge([data_dir, tmp_path], tmp_path / 'merged')
  assert not (tmp_path / 'merged').exists()


def test_data_in_a_bucket_is_prepared(
  manual_dir, data_dir, tmp_path, monkeypatch
):
  """A bucket is a directory here, under names that only epath knows."""
  (tmp_path / 'manual').symlink_to(manual_dir)
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
  _assert_same(_examples(tmp_path / 'data'), _examples(data_dir))


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ([], 'must hold class_labels_indices.csv, .* got no class_labels_indices'),
    (['class_labels_indices.csv'], 'got no clips'),
    (['class_labels_indices.csv', 'clips'], 'must hold one of balanced_train'),
    (['eval_segments.csv', 'clips'], 'got no class_labels_indices.csv'),
  ],
)
def test_manual_dir_that_lacks_something_is_refused_in_one_line(
  files, message, manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  directory.mkdir()
  for name in files:
    (directory / name).symlink_to(manual_dir / name)
  with pytest.raises(SystemExit, match=message) as error:
    main(
      ['prepare', f'--manual_dir={directory}', f'--data_dir={tmp_path / "d"}']
    )
  assert '\n' not in error.value.code and str(directory) in error.value.code


def test_missing_ffmpeg_is_refused_before_anything_is_read(
  manual_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', '/no/such/ffmpeg')
  with pytest.raises(SystemExit, match='ffmpeg must be installed, got none'):
    main(['prepare', f'--manual_dir={manual_dir}', f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'audioset_unfinished').exists()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_threads': 0}, 'num_threads must be at least 1, got 0'),
    ({'segments_per_shard': 0}, 'segments_per_shard must be at least 1, got 0'),
    ({'part': (0, 2)}, r'part must be .* got \(0, 2\)'),
    ({'part': (3, 2)}, r'part must be .* got \(3, 2\)'),
  ],
)
def test_preparation_that_makes_no_sense_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Preparation(**options)


@pytest.mark.parametrize('part', ['2', '1/2/3', 'one/two'])
def test_part_that_is_no_part_is_refused(part, capsys):
  command = ['prepare', '--manual_dir=m', '--data_dir=d', f'--part={part}']
  with pytest.raises(SystemExit):
    main(command)
  assert f"--part: must be I/N, such as 1/2, got '{part}'" in (
    capsys.readouterr().err
  )


def test_flags_of_beam_that_no_shell_takes_are_refused(capsys):
  command = ['prepare', '--manual_dir=m', '--data_dir=d']
  with pytest.raises(SystemExit):
    main([*command, "--beam_options='--runner"])
  assert '--beam_options: must be flags as' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('flags', 'unknown'),
  [
    ('--runner=DirectRunner --flink_mastr=http://here', 'flink_mastr=http'),
    ('--runner=DirectRunner --direct_num_worker 2', 'direct_num_worker'),
    ('DirectRunner', 'DirectRunner'),
  ],
)
def test_flags_that_beam_does_not_know_are_refused(
  flags, unknown, manual_dir, tmp_path
):
  pytest.importorskip('apache_beam')
  command = ['prepare', f'--manual_dir={manual_dir}', f'--data_dir={tmp_path}']
  with pytest.raises(SystemExit, match=f'flags of Beam, got .*{unknown}'):
    main([*command, f'--beam_options={flags}'])
  assert not (tmp_path / 'audioset_unfinished').exists()


@pytest.mark.parametrize(
  ('start', 'part', 'message'),
  [
    (30, '1/1', 'got none of the 1 of part 1/1, and for 1 one that .* another'),
    (3, '2/2', 'got none of the 0 of part 2/2, and for 0 one'),
  ],
)
def test_clips_of_which_none_is_listed_are_refused(
  start, part, message, manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  audioset_clips.write_classes(directory)
  audioset_clips.write_list(
    directory, 'eval', [(IDS[0], start, start + 2, [0])]
  )
  (directory / 'clips').symlink_to(manual_dir / 'clips')
  with pytest.raises(SystemExit, match=message) as error:
    main(
      [
        'prepare',
        f'--manual_dir={directory}',
        f'--data_dir={tmp_path}',
        f'--part={part}',
      ]
    )
  assert f'{directory}/clips must have' in error.value.code
  assert not (tmp_path / 'audioset_unfinished').exists()


def test_segment_listed_twice_is_refused_before_anything_is_done(
  manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  audioset_clips.write_classes(directory)
  for split in ('balanced_train', 'unbalanced_train'):
    audioset_clips.write_list(directory, split, [(IDS[0], 3, 5, [0])])
  (directory / 'clips').symlink_to(manual_dir / 'clips')
  with pytest.raises(SystemExit, match='which is in balanced_train_segments'):
    main(['prepare', f'--manual_dir={directory}', f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'audioset_unfinished').exists()
