"""ModelNet40: from its files to points, and what is wrong with files."""

import json
import re
import shutil
import subprocess
import sys

import h5py
import modelnet40_files
import numpy as np
import pytest

from perceiver_jax.data import modelnet40
from perceiver_jax.data.base import UnreadableError
from perceiver_jax.data.meshes import read_off, sample_points
from perceiver_jax.data.modelnet40 import ModelNet40Data
from perceiver_jax.data.modelnet40_builder import CLASSES, ModelNet40
from perceiver_jax.data.points import PointsData

SQUARE = [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]
POINT_SETS = 'modelnet40_ply_hdf5_2048'


def _data(**fields) -> PointsData:
  return ModelNet40Data(batch_size=1, eval_batch_size=1, **fields)


def _prepare(manual_dir, data_dir, form):
  modelnet40.prepare(f'modelnet40/{form}', manual_dir, data_dir, 'array_record')


def _read(data_dir, split='train', form='meshes'):
  """Returns the config, and the examples of a split by their names."""
  config = _data(data_dir=str(data_dir), name=f'modelnet40/{form}')
  source = config.make_source(split)
  examples = [source[index] for index in range(len(source))]
  return config, {example['name'].decode(): example for example in examples}


def _write(tmp_path, text):
  path = tmp_path / 'mesh.off'
  path.write_text(text)
  return path


@pytest.mark.parametrize(
  'header',
  [
    'OFF\n',
    'OFF',
    '\nOFF \n',
    'COFF\n',
    'OFF # of\n# 1 chair\n\n',
    f'# {"long " * 99}\n#OFF\nOFF\n',
  ],
)
def test_mesh_is_read_whatever_its_first_line(header, tmp_path):
  text = modelnet40_files.off(SQUARE, [[0, 1, 2], [0, 2, 3]], header)
  mesh = read_off(_write(tmp_path, text))
  np.testing.assert_array_equal(mesh.vertices, SQUARE)
  np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3]])


def test_points_are_on_the_faces_in_proportion_to_their_areas(tmp_path):
  # A quarter of the area at height 0, a square, and the rest at height 1.
  high = [[0, 0, 1], [6, 0, 1], [0, 4, 1]]
  text = modelnet40_files.off([*SQUARE, *high], [[0, 1, 2, 3], [4, 5, 6]])
  mesh = read_off(_write(tmp_path, text))
  points = sample_points(mesh, 20_000, np.random.default_rng(0))
  low, high = points[points[:, 2] == 0], points[points[:, 2] == 1]
  assert len(low) + len(high) == 20_000
  # Four standard deviations of a share of 20,000.
  assert abs(len(low) / 20_000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20_000)
  # The means and the variances of a uniform distribution on [0, 2].
  np.testing.assert_allclose(low[:, :2].mean(axis=0), 1.0, atol=0.05)
  np.testing.assert_allclose(low[:, :2].var(axis=0), 1 / 3, atol=0.02)
  # The centroid of the triangle, and its longest side.
  np.testing.assert_allclose(high[:, :2].mean(axis=0), [2, 4 / 3], atol=0.06)
  assert np.all(high[:, 0] / 6 + high[:, 1] / 4 <= 1 + 1e-6)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('', 'begin as an OFF file does'),
    ('solid cube', 'begin as an OFF file does'),
    ('OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n', 'must have faces, got none'),
    ('OFF\n3 1 0\n0 0 0\n1 0 0\n', 'readable, got ValueError'),
    ('OFF\n3 1 0\n0 0 0\n1 0 0\n0 x 0\n3 0 1 2\n', 'readable, got ValueError'),
    ('OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n', 'outside the range'),
    (
      'OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n',
      'must have the 2 faces it names, got 1',
    ),
    ('OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n', 'an area, got 0'),
    ('OFF\n3 1 0\n0 0 0\n1 nan 0\n2 0 0\n3 0 1 2\n', 'an area, got nan'),
  ],
)
def test_mesh_that_cannot_be_used_is_refused_with_the_reason(
  text, reason, tmp_path
):
  with pytest.raises(UnreadableError, match=reason):
    read_off(_write(tmp_path, text))


def test_prepared_meshes_are_all_there_with_their_classes(modelnet40_dir):
  config, train = _read(modelnet40_dir)
  _, test = _read(modelnet40_dir, 'test')
  assert (len(train), len(test)) == (80, 40)
  assert config.class_names == CLASSES
  for name, example in train.items():
    label, _, stem = name.partition('/')
    assert CLASSES[example['label']] == label
    assert stem.startswith(label)
    points = example['points']
    assert (points.shape, points.dtype) == ((2048, 3), np.float32)
    # The height of the pyramid of this class, and its foot.
    height = 0.1 * (CLASSES.index(label) + 1)
    assert 0.8 * height < points[:, 2].max() <= height * (1 + 1e-6)
    assert points.min() >= 0 and points[:, :2].max() <= 1


def test_points_depend_on_the_name_of_the_mesh_alone(modelnet40_dir, tmp_path):
  modelnet40_files.write_meshes(tmp_path)
  # Without one file, all of the others come in other places.
  (tmp_path / 'ModelNet40/airplane/train/airplane_train_0.off').unlink()
  _prepare(tmp_path, tmp_path / 'data', 'meshes')
  _, before = _read(modelnet40_dir)
  _, after = _read(tmp_path / 'data')
  assert len(after) == 79
  for name, example in after.items():
    np.testing.assert_array_equal(example['points'], before[name]['points'])
  one, two = (
    before[f'sofa/sofa_train_{number}']['points'] for number in range(2)
  )
  assert not np.any(np.all(one == two, axis=-1))


def test_broken_meshes_are_left_out_and_named(tmp_path, caplog):
  modelnet40_files.write_meshes(tmp_path)
  broken = {
    'bed/train/bed_train_0.off': ('OFF\n3 0 0\n0 0 0\n', 'got none'),
    'chair/train/chair_train_1.off': (None, 'must be a file'),
    'xbox/test/xbox_test_0.off': ('PLY', 'begin as an OFF'),
  }
  for file, (text, _) in broken.items():
    path = tmp_path / 'ModelNet40' / file
    if text is None:
      path.unlink()
      path.mkdir()
    else:
      path.write_text(text)
  _prepare(tmp_path, tmp_path / 'data', 'meshes')
  _, train = _read(tmp_path / 'data')
  _, test = _read(tmp_path / 'data', 'test')
  assert (len(train), len(test)) == (78, 39)
  assert 'bed/bed_train_0' not in train and 'bed/bed_train_1' in train
  (path,) = (tmp_path / 'data').glob('modelnet40/meshes/1.0.0/metadata.json')
  skipped = json.loads(path.read_text())['skipped']
  assert {split: list(files) for split, files in skipped.items()} == {
    'train': [
      'ModelNet40/bed/train/bed_train_0.off',
      'ModelNet40/chair/train/chair_train_1.off',
    ],
    'test': ['ModelNet40/xbox/test/xbox_test_0.off'],
  }
  for file, (_, reason) in broken.items():
    assert reason in skipped[file.split('/')[1]][f'ModelNet40/{file}']
    assert f'Left out ModelNet40/{file}' in caplog.text


def test_point_sets_are_those_of_the_files(tmp_path):
  written = modelnet40_files.write_point_sets(tmp_path)
  _prepare(tmp_path, tmp_path / 'data', 'point_sets')
  for split, files in written.items():
    _, examples = _read(tmp_path / 'data', split, 'point_sets')
    assert len(examples) == sum(map(len, files))
    for number, points in enumerate(files):
      for label, expected in enumerate(points):
        example = examples[f'ply_data_{split}{number}/{label}']
        np.testing.assert_array_equal(example['points'], expected)
        assert example['label'] == label


def _break_names(root):
  names = [*CLASSES[:-1], 'x_box']
  (root / POINT_SETS / 'shape_names.txt').write_text('\n'.join(names))


def _change_order(root):
  names = [*CLASSES[1::-1], *CLASSES[2:]]
  (root / POINT_SETS / 'shape_names.txt').write_text('\n'.join(names))


def _repeat_a_name(root):
  names = [*CLASSES[:1], *CLASSES]
  (root / POINT_SETS / 'shape_names.txt').write_text('\n'.join(names))


def _break_file(root):
  (root / POINT_SETS / 'ply_data_train1.h5').write_bytes(b'HDF')


def _break_key(root):
  with h5py.File(root / POINT_SETS / 'ply_data_train1.h5', 'a') as file:
    del file['label']


def _break_shape(root):
  with h5py.File(root / POINT_SETS / 'ply_data_train1.h5', 'a') as file:
    del file['data']
    file['data'] = np.zeros((4, 1024, 3))


def _break_label(root):
  with h5py.File(root / POINT_SETS / 'ply_data_train1.h5', 'a') as file:
    file['label'][2] = 40


def _remove_list(root):
  (root / POINT_SETS / 'test_files.txt').unlink()


@pytest.mark.parametrize(
  ('break_it', 'message'),
  [
    (_break_names, r"40 classes, got 40, without \['xbox'\], and .*'x_box'"),
    (_change_order, r"alphabetical order, got \['bathtub', 'airplane', 'bed'"),
    (_repeat_a_name, r"order, got \['airplane', 'airplane', 'bathtub'"),
    (_break_file, r'train1.h5 must be an HDF5 file .* got OSError'),
    (_break_key, r'train1.h5 must be an HDF5 file with .* got KeyError'),
    (_break_shape, r'have 2048 points .* its 4 labels, got \(4, 1024, 3\)'),
    (_break_label, 'Class label 40 greater'),
    (_remove_list, 'test_files.txt must exist'),
  ],
)
def test_point_sets_that_are_broken_are_an_error(break_it, message, tmp_path):
  modelnet40_files.write_point_sets(tmp_path)
  break_it(tmp_path)
  with pytest.raises(ValueError, match=message):
    _prepare(tmp_path, tmp_path / 'data', 'point_sets')


def test_directory_that_is_not_modelnet40_is_an_error(tmp_path):
  manual_dir = tmp_path / 'manual'
  (manual_dir / 'ModelNet40' / 'hat').mkdir(parents=True)
  (manual_dir / 'ModelNet40' / '__MACOSX').mkdir()
  (manual_dir / 'ModelNet40' / '.DS_Store').write_text('')
  with pytest.raises(ValueError, match=r"got 1, without .* with \['hat'\]"):
    _prepare(manual_dir, tmp_path / 'data', 'meshes')


@pytest.mark.parametrize(
  ('form', 'directory'),
  [('meshes', 'ModelNet40'), ('point_sets', 'modelnet40_ply_hdf5_2048')],
)
def test_command_says_in_one_line_what_is_missing(form, directory, tmp_path):
  (tmp_path / 'empty').mkdir()
  for manual_dir in (tmp_path / 'empty', tmp_path / 'missing'):
    arguments = [f'--manual_dir={manual_dir}', f'--data_dir={tmp_path}/data']
    with pytest.raises(SystemExit) as caught:
      modelnet40.main([f'modelnet40/{form}', *arguments])
    assert re.fullmatch(
      f'FileNotFoundError: {manual_dir} must hold {directory}, .*',
      caught.value.code,
    )
  (tmp_path / 'empty' / directory).mkdir()
  with pytest.raises(SystemExit, match='^ValueError: .* must'):
    modelnet40.main(
      [
        f'modelnet40/{form}',
        f'--manual_dir={tmp_path}/empty',
        f'--data_dir={tmp_path}/data',
      ]
    )


def test_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
  modelnet40_files.write_meshes(tmp_path)
  # What array_record raises, and TFDS writes a sentence before.
  message = 'write() failed: No space left on device; writing x\n'

  def fail(*_, **__):
    raise RuntimeError(message)

  monkeypatch.setattr(ModelNet40, '_generate_examples', fail)
  arguments = [f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}/data']
  with pytest.raises(SystemExit) as error:
    modelnet40.main(['modelnet40/meshes', *arguments])
  assert error.value.code.startswith('OSError: ')
  assert error.value.code.endswith(message.rstrip())
  assert '\n' not in error.value.code
  message = 'another'
  with pytest.raises(RuntimeError, match=message):
    modelnet40.main(['modelnet40/meshes', *arguments])


def test_format_that_cannot_be_read_at_random_is_refused(tmp_path):
  modelnet40_files.write_meshes(tmp_path)
  with pytest.raises(SystemExit, match=r"must be one of .* got 'parquet'"):
    modelnet40.main(
      [
        'modelnet40/meshes',
        f'--manual_dir={tmp_path}',
        f'--data_dir={tmp_path}/data',
        '--file_format=parquet',
      ]
    )
  assert not (tmp_path / 'data').exists()


def test_what_is_prepared_needs_no_archive_and_stays(
  modelnet40_dir, tmp_path, caplog, capsys
):
  modelnet40.main(
    [
      'modelnet40/meshes',
      f'--manual_dir={tmp_path}',
      f'--data_dir={modelnet40_dir}',
      '--file_format=tfrecord',
    ]
  )
  ready = f'{modelnet40_dir}/modelnet40/meshes/1.0.0'
  assert f'{ready} is prepared already, as array_record, and' in caplog.text
  assert capsys.readouterr().out.splitlines()[-3:] == [
    'train: 80 examples, 0 left out',
    'test: 40 examples, 0 left out',
    f'{ready}: the prepared data',
  ]


@pytest.mark.parametrize(('split', 'empty'), [('train', False), ('test', True)])
def test_class_without_meshes_is_an_error_before_any_is_read(
  split, empty, tmp_path, monkeypatch
):
  monkeypatch.setattr('perceiver_jax.data.meshes.read_off', None)
  modelnet40_files.write_meshes(tmp_path)
  directory = tmp_path / 'ModelNet40' / 'chair' / split
  shutil.rmtree(directory)
  if empty:
    directory.mkdir()
  with pytest.raises(ValueError, match=f'chair/{split} must have meshes'):
    _prepare(tmp_path, tmp_path / 'data', 'meshes')


@pytest.mark.parametrize(
  ('form', 'num_train', 'num_test', 'message'),
  [
    ('meshes', 9_843, 40, 'train must have 9843 .* got 80, and 0 left out'),
    ('point_sets', 9_840, 2, 'train must have 9840 .* got 7, and 0 left out'),
  ],
)
def test_split_of_another_size_than_the_published_is_told_of(
  form, num_train, num_test, message, tmp_path, monkeypatch, caplog
):
  modelnet40_files.write_meshes(tmp_path)
  modelnet40_files.write_point_sets(tmp_path)
  config = ModelNet40.builder_configs[form]
  assert config.num_examples == {'train': num_train, 'test': 2_468}
  sizes = {'train': num_train, 'test': num_test}
  monkeypatch.setattr(type(config), 'num_examples', sizes)
  _prepare(tmp_path, tmp_path / 'data', form)
  assert re.search(message, caplog.text)
  assert 'test must have' not in caplog.text


def test_split_without_a_mesh_that_can_be_read_is_an_error(tmp_path):
  modelnet40_files.write_meshes(tmp_path)
  for path in (tmp_path / 'ModelNet40').glob('*/test/*.off'):
    path.write_text('OFF\n0 0 0\n')
  with pytest.raises(ValueError, match="'test', got none and 40 that cannot"):
    _prepare(tmp_path, tmp_path / 'data', 'meshes')


def test_data_that_is_not_prepared_is_an_error_that_says_how(tmp_path):
  config = _data(data_dir=str(tmp_path))
  with pytest.raises(
    ValueError, match=r'modelnet40 modelnet40/meshes --manual_dir=DIR --da'
  ):
    config.element_spec()


@pytest.mark.slow
def test_command_prepares_both_forms(tmp_path):
  modelnet40_files.write_meshes(tmp_path)
  modelnet40_files.write_point_sets(tmp_path)
  command = re.search(r'python -m .*', modelnet40.__doc__)[0].split()
  for form, sizes in {'meshes': (80, 40), 'point_sets': (7, 2)}.items():
    name = f'modelnet40/{form}'
    options = [f'--manual_dir={tmp_path}', f'--data_dir={tmp_path}/data']
    arguments = [*command[1:3], name, *options]
    subprocess.run([sys.executable, *arguments], check=True)
    assert sizes == tuple(
      len(_read(tmp_path / 'data', split, form)[1])
      for split in ('train', 'test')
    )


def test_name_of_another_data_set_is_refused():
  with pytest.raises(ValueError, match="name must be one of .* got 'mnist'"):
    _data(name='mnist').validate()


def test_points_are_centred_and_fit_the_cube():
  rng = np.random.default_rng(0)
  points = rng.uniform(size=(100, 3)).astype(np.float32) * [3, 1, 1] + [5, 0, 9]
  example = {'points': points.astype(np.float32), 'label': 7}
  actual = _data().preprocess(example, None)
  assert actual['label'] == 7 and actual['label'].dtype == np.int32
  assert actual['points'].dtype == np.float32
  np.testing.assert_allclose(actual['points'].mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(np.abs(actual['points']).max(), 1, rtol=1e-6)
  # One factor for all axes: shapes stay what they are.
  extent = np.ptp(points, axis=0) / np.ptp(actual['points'], axis=0)
  np.testing.assert_allclose(extent, extent[0], rtol=1e-4)


def test_training_scales_each_point_by_a_factor_of_its_own():
  # A ring, whose centre hardly moves.
  angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
  ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
  example = {'points': ring.astype(np.float32), 'label': 0}
  config = _data(scale_range=(0.9, 1.1))
  actual = config.preprocess(example, np.random.default_rng(0))['points']
  radii = np.linalg.norm(actual, axis=-1)
  radii *= 1.0 / radii.mean()
  assert 0.89 < radii.min() < 0.91 and 1.09 < radii.max() < 1.11
  # Uniform in the range: the deviation is its width over the root of 12.
  np.testing.assert_allclose(radii.std(), 0.2 / np.sqrt(12), rtol=0.05)
  # Along the line from the origin: the direction stays.
  unit = actual / np.linalg.norm(actual, axis=-1, keepdims=True)
  np.testing.assert_allclose(unit, ring, atol=0.02)
  # Keyed by the generator, and not in evaluation.
  again = config.preprocess(example, np.random.default_rng(0))['points']
  np.testing.assert_array_equal(actual, again)
  plain = config.preprocess(example, None)['points']
  np.testing.assert_allclose(np.linalg.norm(plain, axis=-1), 1, rtol=1e-4)


def test_where_a_model_lies_in_its_file_does_not_matter():
  rng = np.random.default_rng(0)
  points = rng.uniform(-8, 8, size=(1000, 3)).astype(np.float32).round(2)
  here, far = (
    _data().preprocess(
      {'points': points + np.float32(offset), 'label': 0},
      np.random.default_rng(1),
    )['points']
    for offset in (0, 4096)
  )
  np.testing.assert_allclose(far, here, atol=1e-3)


@pytest.mark.parametrize('points', [np.ones((5, 3)), np.full((5, 3), np.nan)])
def test_points_without_an_extent_are_refused(points):
  example = {'points': points.astype(np.float32), 'label': 0}
  with pytest.raises(UnreadableError, match='not all in one place, got an ext'):
    _data().preprocess(example, None)


@pytest.mark.parametrize('scale_range', [(0.0, 1.0), (1.1, 1.0)])
def test_scales_out_of_range_are_refused(scale_range):
  with pytest.raises(ValueError, match='scale_range must be two positive'):
    _data(scale_range=scale_range).validate()
