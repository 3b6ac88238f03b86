"""Files of the preparation of AudioSet appear as a whole, or not at all."""

import os
import pathlib

import pytest

from perceiver_jax.data.audioset.files import whole_file


def test_two_who_write_the_same_file_do_not_meet(tmp_path):
  path = tmp_path / 'shard'
  with whole_file(str(path)) as first:
    pathlib.Path(first).write_text('a half')
    with whole_file(str(path)) as second:
      pathlib.Path(second).write_text('of the second')
    assert path.read_text() == 'of the second'
    assert pathlib.Path(first).read_text() == 'a half'
    pathlib.Path(first).write_text('of the first')
  assert path.read_text() == 'of the first'
  assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing_behind(tmp_path):
  path = tmp_path / 'shard'
  path.write_text('whole')
  with pytest.raises(OSError, match='full'), whole_file(str(path)) as name:
    pathlib.Path(name).write_text('a half')
    raise OSError('the disk is full')
  assert path.read_text() == 'whole'
  assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  path = tmp_path / 'shard'
  events = []
  fsync, replace = os.fsync, os.replace

  def record_fsync(descriptor):
    events.append(os.fstat(descriptor).st_ino)
    fsync(descriptor)

  def record_replace(*paths):
    events.append('replace')
    replace(*paths)

  monkeypatch.setattr(os, 'fsync', record_fsync)
  monkeypatch.setattr(os, 'replace', record_replace)
  with whole_file(str(path)) as name:
    pathlib.Path(name).write_text('whole')
  file, directory = path.stat().st_ino, tmp_path.stat().st_ino
  assert events == [file, 'replace', directory]
