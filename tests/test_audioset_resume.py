"""AudioSet prepared by runs that were killed, or went on with other things."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import audioset_tones
import pytest
from audioset_tones import IDS, assert_same, read_examples

from perceiver_jax import ffmpeg
from perceiver_jax.data.audioset.builder import Audioset, Preparation
from perceiver_jax.data.audioset.prepare import prepare

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
  blow, tones_manual_dir, tones_dir, tmp_path
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
  command += [f'--manual_dir={tones_manual_dir}', f'--data_dir={tmp_path}']
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
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


def test_preparation_that_fills_the_disk_says_so_in_a_line_and_goes_on(
  tones_manual_dir, tones_dir, tmp_path
):
  command = [sys.executable, '-m', 'perceiver_jax.data.audioset', 'prepare']
  command += [f'--manual_dir={tones_manual_dir}', f'--data_dir={tmp_path}']
  # No file may have more than 20 blocks.
  limited = subprocess.run(
    ['sh', '-c', 'ulimit -f 20; exec "$@"', 'sh', *command],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert limited.returncode == 1
  assert 'Traceback' not in limited.stderr
  *_, line = limited.stderr.splitlines()
  assert line.startswith('OSError: write() failed: File too large; writing ')
  assert str(tmp_path) in line
  # No half of a file is left.
  assert [path.name for path in tmp_path.glob('*_unfinished/*')] == ['begun']
  prepare(tones_manual_dir, tmp_path)
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


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
  killed_ffmpeg, tones_manual_dir, tmp_path
):
  prepare(tones_manual_dir, tmp_path, Preparation(segments_per_shard=2))
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
  killed_ffmpeg, tones_manual_dir, tones_dir, tmp_path, monkeypatch
):
  # The run ends when all shards are there, before they are put together.
  monkeypatch.setattr(
    'perceiver_jax.data.audioset.builder.write_report', _interrupt
  )
  with pytest.raises(InterruptedError):
    prepare(tones_manual_dir, tmp_path, Preparation(segments_per_shard=2))
  before = _times(tmp_path / 'audioset_unfinished')
  monkeypatch.undo()
  prepare(tones_manual_dir, tmp_path, Preparation(segments_per_shard=2))
  after = _times(tmp_path / 'audioset' / '1.0.0')
  assert len(before) == 4
  assert [name for name in after if after[name] != before[name]] == [
    'audioset-eval.array_record-00001-of-00004'
  ]
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


_DONE = '.done.json'


@pytest.mark.parametrize(
  ('suffix', 'damage'),
  [
    # A killed run had moved it away, in a bucket.
    ('', lambda path: path.unlink()),
    ('', lambda path: path.write_bytes(b'')),
    ('', lambda path: path.write_bytes(path.read_bytes()[:-1])),
    (_DONE, lambda path: path.write_bytes(b'')),
    (_DONE, lambda path: path.write_bytes(b'\0' * 99)),
    # An earlier version did not know the size of the file.
    (_DONE, lambda path: path.write_text('[2, 2, 388, [], []]')),
  ],
)
def test_file_that_is_lost_or_damaged_is_made_again(
  suffix, damage, tones_manual_dir, tones_dir, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    'perceiver_jax.data.audioset.builder.write_report', _interrupt
  )
  with pytest.raises(InterruptedError):
    prepare(tones_manual_dir, tmp_path, Preparation(segments_per_shard=2))
  monkeypatch.undo()
  unfinished = tmp_path / 'audioset_unfinished'
  before = _times(unfinished)
  (damaged,) = unfinished.glob(f'*-00001-of-00004{suffix}')
  damage(damaged)
  prepare(tones_manual_dir, tmp_path, Preparation(segments_per_shard=2))
  after = _times(tmp_path / 'audioset' / '1.0.0')
  assert [name for name in after if after[name] != before[name]] == [
    'audioset-eval.array_record-00001-of-00004'
  ]
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


def _interrupt(*_):
  raise InterruptedError


def _times(directory):
  """Returns when each shard was written."""
  return {
    path.name: path.stat().st_mtime_ns
    for path in sorted(directory.glob('*-of-0000?'))
  }


def test_what_is_prepared_already_stays_and_this_is_said(
  tones_manual_dir, tones_dir, caplog
):
  report = tones_dir / 'audioset' / '1.0.0' / 'report.json'
  before = report.stat().st_mtime_ns
  prepare(tones_manual_dir, tones_dir, Preparation(part=(2, 2)))
  assert f'{report.parent} is prepared already' in caplog.text
  assert report.stat().st_mtime_ns == before


@pytest.mark.parametrize('begun', [None, b''])
def test_leftovers_of_who_knows_which_lists_are_not_taken(
  begun, tones_manual_dir, tones_dir, tmp_path
):
  unfinished = tmp_path / 'audioset_unfinished'
  other = tmp_path / 'other'
  audioset_tones.write(other, IDS[::-1])
  _kill_clean_up(other, tmp_path)
  shutil.rmtree(tmp_path / 'audioset')
  assert _times(unfinished)
  if begun is not None:
    (unfinished / 'begun').write_bytes(begun)
  prepare(tones_manual_dir, tmp_path)
  assert_same(read_examples(tmp_path), read_examples(tones_dir))


def test_leftovers_of_prepared_data_are_removed(tones_manual_dir, tmp_path):
  _kill_clean_up(tones_manual_dir, tmp_path)
  assert (tmp_path / 'audioset_unfinished').exists()
  prepare(tones_manual_dir, tmp_path)
  assert not (tmp_path / 'audioset_unfinished').exists()
  assert len(read_examples(tmp_path)) == 7


def _kill_clean_up(manual_dir, data_dir):
  """Prepares data, and is killed when the first leftover is deleted."""

  def kill(builder):
    (data_dir / 'audioset_unfinished' / 'begun').unlink()
    raise InterruptedError

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Audioset, '_post_download_and_prepare_hook', kill)
    with pytest.raises(InterruptedError):
      prepare(manual_dir, data_dir)


def test_data_is_on_the_disk_before_its_parts_are_deleted(
  tones_manual_dir, tmp_path, monkeypatch
):
  ready = tmp_path / 'audioset' / '1.0.0'
  synced = set()
  monkeypatch.setattr(
    os, 'fsync', lambda file: synced.add(os.fstat(file).st_ino)
  )
  rmtree = shutil.rmtree

  def check(path, *arguments, **options):
    if os.path.basename(path) == 'audioset_unfinished':
      paths = (*ready.iterdir(), ready, ready.parent)
      assert {path.stat().st_ino for path in paths} <= synced
    rmtree(path, *arguments, **options)

  monkeypatch.setattr(shutil, 'rmtree', check)
  prepare(tones_manual_dir, tmp_path)
  assert not (tmp_path / 'audioset_unfinished').exists()


def test_going_on_with_other_lists_is_refused(tones_manual_dir, tmp_path):
  unfinished = tmp_path / 'audioset_unfinished'
  unfinished.mkdir()
  (unfinished / 'begun').write_text('another')
  with pytest.raises(ValueError, match=f'{unfinished} must have been begun'):
    prepare(tones_manual_dir, tmp_path)
  assert (unfinished / 'begun').read_text() == 'another'
