"""What AudioSet cannot be prepared from is refused before anything is done."""

import audioset_clips
import pytest
from audioset_tones import IDS

from perceiver_jax.data.audioset.__main__ import main
from perceiver_jax.data.audioset.builder import Preparation


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
  files, message, tones_manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  directory.mkdir()
  for name in files:
    (directory / name).symlink_to(tones_manual_dir / name)
  with pytest.raises(SystemExit, match=message) as error:
    main(
      ['prepare', f'--manual_dir={directory}', f'--data_dir={tmp_path / "d"}']
    )
  assert '\n' not in error.value.code and str(directory) in error.value.code


def test_bucket_that_cannot_be_read_is_refused_in_one_line(
  tones_manual_dir, tmp_path, monkeypatch
):
  class NotFoundError(Exception):
    __module__ = 'tensorflow.python.framework.errors_impl'

  def fail(*_, **__):
    raise NotFoundError('no\nsuch bucket')

  monkeypatch.setattr('perceiver_jax.data.audioset.prepare.absolute', fail)
  with pytest.raises(SystemExit) as error:
    main(
      ['prepare', f'--manual_dir={tones_manual_dir}', f'--data_dir={tmp_path}']
    )
  assert error.value.code == (
    'FileNotFoundError: NotFoundError: no such bucket'
  )


def test_missing_ffmpeg_is_refused_before_anything_is_read(
  tones_manual_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', '/no/such/ffmpeg')
  with pytest.raises(SystemExit, match='ffmpeg must be installed, got none'):
    main(
      ['prepare', f'--manual_dir={tones_manual_dir}', f'--data_dir={tmp_path}']
    )
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
    (
      '--runner=DirectRunner --direct_num_workers=x',
      "argument --direct_num_workers: invalid int value: 'x'",
    ),
    ('--direct_num_workers', '--direct_num_workers: expected one argument'),
  ],
)
def test_flags_that_beam_does_not_know_are_refused(
  flags, unknown, tones_manual_dir, tmp_path, capsys
):
  pytest.importorskip('apache_beam')
  command = [
    'prepare',
    f'--manual_dir={tones_manual_dir}',
    f'--data_dir={tmp_path}',
  ]
  with pytest.raises(SystemExit, match=f'flags of Beam, got .*{unknown}'):
    main([*command, f'--beam_options={flags}'])
  assert 'usage' not in capsys.readouterr().err
  assert not (tmp_path / 'audioset_unfinished').exists()


@pytest.mark.parametrize(
  ('start', 'part', 'message'),
  [
    (30, '1/1', 'got none of the 1 of part 1/1, and for 1 one that .* another'),
    (3, '2/2', 'got none of the 0 of part 2/2, and for 0 one'),
  ],
)
def test_clips_of_which_none_is_listed_are_refused(
  start, part, message, tones_manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  audioset_clips.write_classes(directory)
  audioset_clips.write_list(
    directory, 'eval', [(IDS[0], start, start + 2, [0])]
  )
  (directory / 'clips').symlink_to(tones_manual_dir / 'clips')
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
  tones_manual_dir, tmp_path
):
  directory = tmp_path / 'manual'
  audioset_clips.write_classes(directory)
  for split in ('balanced_train', 'unbalanced_train'):
    audioset_clips.write_list(directory, split, [(IDS[0], 3, 5, [0])])
  (directory / 'clips').symlink_to(tones_manual_dir / 'clips')
  with pytest.raises(SystemExit, match='which is in balanced_train_segments'):
    main(['prepare', f'--manual_dir={directory}', f'--data_dir={tmp_path}'])
  assert not (tmp_path / 'audioset_unfinished').exists()
