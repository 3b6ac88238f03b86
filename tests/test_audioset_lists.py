"""The official lists, and the names of files, right and wrong."""

import errno
import os

import audioset_clips
import pytest
from etils import epath

from perceiver_jax.data.audioset import segments
from perceiver_jax.data.audioset.clips import ClipFiles, begins_at

_MIDS = list(audioset_clips.CLASSES)
_GOOD = '-abcdefg_-1, 30.000, 40.000, "/m/04rlf,/t/dd00003"\n'


def test_lists_are_read_as_they_are_published(tmp_path):
  audioset_clips.write_classes(tmp_path)
  audioset_clips.write_list(
    tmp_path,
    'eval',
    [('-abcdefg_-1', 30, 40, [1, 3]), ('01234567890', 0.5, 9, [0])],
  )
  classes = segments.read_classes(epath.Path(tmp_path, segments.CLASSES_FILE))
  assert classes == audioset_clips.CLASSES
  path = epath.Path(tmp_path, segments.list_file('eval'))
  assert segments.read_segments(path, list(classes)) == [
    ('-abcdefg_-1', 30, 40, (1, 3)),
    ('01234567890', 0.5, 9, (0,)),
  ]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('-abcdefg_-1, 30.000, 40.000', 'the id of a video'),
    ('-abcdefg_-1, 30.000, 40.000, "/m/04rlf", 1', 'the id of a video'),
    ('-abcdefg_-1, thirty, 40.000, "/m/04rlf"', 'the id of a video'),
    ('-abcdefg_-1, 40.000, 30.000, "/m/04rlf"', 'the id of a video'),
    ('-abcdefg_-1, 30.000, nan, "/m/04rlf"', 'the id of a video'),
    ('-abcdefg_-1, 30.000, inf, "/m/04rlf"', 'the id of a video'),
    ('-abcdefg_-1, -1, 40.000, "/m/04rlf"', 'the id of a video'),
    ('tooshort, 30.000, 40.000, "/m/04rlf"', 'the id of a video'),
    ('-abcdefg_-1, 30.000, 40.000, "/m/nosuch"', r"got \['/m/nosuch'\]"),
    ('-abcdefg_-1, 30.000, 40.000, ""', r"labels of class_lab.* got \[''\]"),
    ('-abcdefg_-1, 30.000, 40.000, "/m/04rlf', 'quotes in pairs'),
    ('-abcdefg_-1, 30.000, 40.000, "/m/04rlf"/m/0838f', 'quotes in pairs'),
  ],
)
def test_bad_line_of_a_list_is_refused_by_file_and_line(
  line, message, tmp_path
):
  path = epath.Path(tmp_path, 'eval_segments.csv')
  path.write_text(f'# a comment\n{_GOOD}{line}\n{_GOOD}')
  with pytest.raises(ValueError, match=message) as error:
    segments.read_segments(path, _MIDS)
  assert f'{path}, line 3, must' in str(error.value)


@pytest.mark.parametrize(
  'line',
  [
    '2,/m/0838f',
    '3,/m/0838f,Water',
    '2,/m/09x0r,Water',
    '2,/m/x,Music',
    '2,/m/0838f,"Water',
  ],
)
def test_bad_line_of_the_classes_is_refused_by_file_and_line(line, tmp_path):
  path = epath.Path(tmp_path, 'class_labels_indices.csv')
  head = 'index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/04rlf,Music\n'
  path.write_text(f'{head}{line}\n')
  with pytest.raises(ValueError) as error:
    segments.read_classes(path)
  assert f'{path}, line 4, must' in str(error.value)


def test_list_that_is_no_text_is_refused(tmp_path):
  path = epath.Path(tmp_path, 'eval_segments.csv')
  path.write_bytes(b'\x1f\x8b\x08')  # As a packed file begins.
  with pytest.raises(ValueError, match=f'{path} must be text in UTF-8, got'):
    segments.read_segments(path, _MIDS)


def test_byte_order_mark_of_an_editor_is_no_part_of_a_list(tmp_path):
  path = epath.Path(tmp_path, 'eval_segments.csv')
  path.write_text(f'\ufeff# a comment\n{_GOOD}')
  assert len(segments.read_segments(path, _MIDS)) == 1


def test_list_without_lines_is_refused(tmp_path):
  path = epath.Path(tmp_path, 'eval_segments.csv')
  path.write_text('# YTID, start_seconds, end_seconds, positive_labels\n')
  with pytest.raises(ValueError, match='one segment at least, got none'):
    segments.read_segments(path, _MIDS)
  with pytest.raises(ValueError, match='one class at least, got none'):
    segments.read_classes(path)


@pytest.mark.parametrize(
  ('name', 'is_it'),
  [
    ('-bcdefghij_.wav', True),
    ('-bcdefghij__30.mp4', True),
    ('-bcdefghij__30.000.MKV', True),
    ('-bcdefghij__29.9.webm', True),
    ('-bcdefghij__30000.flac', True),
    ('-bcdefghij__30_40.m4a', True),
    ('-bcdefghij__30.0-40.0.m4a', True),
    ('-bcdefghij__30000_40000.m4a', True),
    ('Y-bcdefghij__30.000_40.000.wav', True),
    ('deep/down/Y-bcdefghij_.wav', True),
    ('-bcdefghij__30.4.wav', True),
    ('-bcdefghij__30.6.wav', False),
    ('-bcdefghij__40.wav', False),
    ('-bcdefghij__3.wav', False),
    ('-bcdefghij__30400.wav', False),
    ('-bcdefghij__30.avi', False),
    ('-bcdefghij__30.wav.part', False),
    ('-bcdefghij.wav', False),
    ('--bcdefghij__30.wav', False),
  ],
)
def test_file_of_a_segment_is_found_by_its_name(name, is_it, tmp_path):
  other = tmp_path / '0123456789-_0.wav'
  other.write_text('')
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('')
  found = ClipFiles(epath.Path(tmp_path)).of(
    segments.Segment('-bcdefghij_', 30.0, 40.0, (0,))
  )
  assert (found == str(path) and begins_at(found, 30.0)) == is_it


def test_links_to_directories_are_followed_once_each(tmp_path, caplog):
  clips, disk = tmp_path / 'clips', tmp_path / 'disk'
  (disk / 'deep').mkdir(parents=True)
  clips.mkdir()
  for directory in (clips, disk, disk / 'deep'):
    (directory / f'{directory.name:_<11}.wav').write_text('')
  (directory / 'no clip').write_text('')
  (clips / 'second').symlink_to(disk)
  (disk / 'deep' / 'loop').symlink_to(clips)
  (disk / 'deep' / 'up').symlink_to(disk)
  files = ClipFiles(epath.Path(clips))
  for name, inner in (
    ('clips', ''),
    ('disk', 'second'),
    ('deep', 'second/deep'),
  ):
    segment = segments.Segment(f'{name:_<11}', 7.0, 9.0, (0,))
    assert files.of(segment) == str(clips / inner / f'{name:_<11}.wav')
  assert 'Ignored 1 files' in caplog.text


def test_directory_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
  (tmp_path / '0123456789-.wav').write_text('')
  (tmp_path / 'lost').mkdir()
  scandir = os.scandir

  def fail(path):
    if os.path.basename(path) == 'lost':
      raise OSError(errno.EIO, 'Input/output error', path)
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', fail)
  with pytest.raises(OSError, match=f"error: '{tmp_path}/lost'"):
    ClipFiles(epath.Path(tmp_path))


def test_file_with_pictures_is_preferred(tmp_path):
  for name in ('0123456789-.wav', '0123456789-_7.webm', '0123456789-_7.flac'):
    (tmp_path / name).write_text('')
  found = ClipFiles(epath.Path(tmp_path)).of(
    segments.Segment('0123456789-', 7.0, 9.0, (0,))
  )
  assert found == str(tmp_path / '0123456789-_7.webm')


def test_file_that_begins_where_the_segment_does_is_preferred(tmp_path):
  for name in ('0123456789-_8.webm', '0123456789-_7.flac'):
    (tmp_path / name).write_text('')
  files = ClipFiles(epath.Path(tmp_path))
  for start, name in ((7.0, '_7.flac'), (8.0, '_8.webm'), (90.0, '_8.webm')):
    segment = segments.Segment('0123456789-', start, start + 2, (0,))
    assert files.of(segment) == str(tmp_path / f'0123456789-{name}')


def test_names_that_say_nothing_are_reported(tmp_path, caplog):
  for name in ('0123456789-.wav', 'my song.mp3'):
    (tmp_path / name).write_text('')
  ClipFiles(epath.Path(tmp_path))
  assert 'Ignored 1 files' in caplog.text and 'my song.mp3' in caplog.text


def test_directory_without_clips_is_refused(tmp_path):
  with pytest.raises(ValueError, match=f'{tmp_path} must have files .* none'):
    ClipFiles(epath.Path(tmp_path))
  (tmp_path / 'my song.mp3').write_text('')
  with pytest.raises(ValueError, match=r"got \['my song.mp3'\]"):
    ClipFiles(epath.Path(tmp_path))


@pytest.mark.parametrize('other', ['balanced_train', 'unbalanced_train'])
def test_segment_that_is_listed_twice_is_refused(other):
  one, late, two = (
    segments.Segment(video_id, start, start + 10, (0,))
    for video_id, start in (('one', 3.0), ('one', 30.0), ('two', 3.0))
  )
  listed = {'balanced_train': [one, late], 'unbalanced_train': [two]}
  segments.check_disjoint(listed)
  listed[other] = [*listed[other], late._replace(labels=(1,))]
  with pytest.raises(ValueError) as error:
    segments.check_disjoint(listed)
  assert str(error.value) == (
    f'{other}_segments.csv must have segments that are listed but once, got '
    'one at 30.0 s, which is in balanced_train_segments.csv already.'
  )
