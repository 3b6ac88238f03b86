"""What cannot be written is reported, kept, and written later."""

import shutil

from etils import epath

from perceiver_jax.training.lasting_files import LineFile
from perceiver_jax.training.metrics import MetricWriter, read_metrics


def _full(path):
  """Makes a file of a disk that has no space left."""
  path.symlink_to('/dev/full')


def test_lines_of_a_full_disk_are_written_when_there_is_space(tmp_path, caplog):
  path = tmp_path / 'lines'
  _full(path)
  lines = LineFile(epath.Path(path))
  lines.add('one\n')
  lines.add('two\n')
  assert caplog.text.count(f'{path} cannot be written to') == 1
  path.unlink()
  lines.add('three\n')
  assert f'{path} can be written to again' in caplog.text
  assert path.read_text() == 'one\ntwo\nthree\n'
  lines.add('four\n')
  lines.close()
  assert path.read_text() == 'one\ntwo\nthree\nfour\n'


def test_what_is_never_written_is_counted(tmp_path, caplog):
  path = tmp_path / 'lines'
  _full(path)
  lines = LineFile(epath.Path(path))
  lines.add('one\n')
  lines.close()
  assert f'1 lines of {path} are lost' in caplog.text


def test_a_part_of_a_line_is_overwritten(tmp_path, monkeypatch):
  path = tmp_path / 'lines'
  path.write_text('zero\n')
  lines = LineFile(epath.Path(path))
  lines.add('one\n')

  class _Torn:
    """Writes a part, as a disk does that has little space left."""

    def write(self, data):
      with path.open('ab') as file:
        file.write(data[:2])
      raise OSError(28, 'No space left on device')

    def close(self):
      pass

  with monkeypatch.context() as patch:
    patch.setattr(lines._file, '_file', _Torn())
    lines.add('two\n')
  assert path.read_text() == 'zero\none\ntw'
  lines.add('three\n')
  lines.close()
  assert path.read_text() == 'zero\none\ntwo\nthree\n'


def test_a_removed_directory_is_made_again(tmp_path, caplog):
  workdir = tmp_path / 'run'
  with MetricWriter(workdir) as writer:
    writer.write(1, 'train', {'loss': 1.0})
    shutil.rmtree(workdir)
    for step in (2, 3):
      writer.write(step, 'train', {'loss': 1.0})
  assert 'cannot be written to' in caplog.text
  steps = [line['step'] for line in read_metrics(workdir / 'metrics.jsonl')]
  assert steps == [2, 3]


def test_a_full_disk_does_not_stop_who_writes_for_tensorboard(
  tmp_path, monkeypatch, caplog
):
  # More than the thread that writes has room for.
  num_steps = 50
  with MetricWriter(tmp_path) as writer:
    events = next(tmp_path.glob('events.*'))
    event_file = writer._summary_writer.file_writer.event_writer._ev_writer
    record_writer = event_file._py_recordio_writer._writer
    with open('/dev/full', 'wb', buffering=0) as full:
      monkeypatch.setattr(record_writer, '_file', full)
      for step in range(num_steps):
        writer.write(step, 'train', {'loss': 1.0})
      writer._summary_writer.flush()
  assert f'{events} cannot be written to, and misses' in caplog.text
  assert len(read_metrics(tmp_path / 'metrics.jsonl')) == num_steps
