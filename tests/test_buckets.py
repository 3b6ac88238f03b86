"""A bucket is never taken for a directory of this machine."""

import pathlib

from etils import epath

from perceiver_jax.buckets import absolute, is_in_bucket
from perceiver_jax.training import checkpoint


def test_a_path_in_a_bucket_stays_as_it_is():
  path = epath.Path('gs://bucket/runs') / 'io'
  for spelled in (path, str(path)):
    assert is_in_bucket(spelled)
    assert str(absolute(spelled)) == 'gs://bucket/runs/io'


def test_a_path_of_this_machine_becomes_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for spelled in ('runs/io', pathlib.Path('runs/io'), tmp_path / 'runs/io'):
    assert not is_in_bucket(spelled)
    assert str(absolute(spelled)) == str(tmp_path / 'runs' / 'io')


def test_checkpoints_go_to_the_bucket(monkeypatch):
  roots = []
  monkeypatch.setattr(checkpoint, 'check_writable', lambda _: None)
  monkeypatch.setattr(checkpoint, 'Saver', lambda _: None)
  monkeypatch.setattr(
    checkpoint, 'Store', lambda root, read_only: roots.append(str(root))
  )
  checkpoint.CheckpointConfig().make('gs://bucket/runs/io', '{}')
  assert roots == ['gs://bucket/runs/io']
