"""Solids: what is prepared, and that each is what it is called."""

import collections

import numpy as np
import pytest

from perceiver_jax.data.solids import SolidsData
from perceiver_jax.data.solids_builder import CLASSES, Solids


@pytest.fixture(scope='module')
def points(solids_dir):
  """Points of the solids for test, by name, as they are stored."""
  source = SolidsData(data_dir=solids_dir).make_source('test')
  named = collections.defaultdict(list)
  for index in range(len(source)):
    example = source[index]
    named[CLASSES[example['label']]].append(example['points'])
  return {name: np.stack(clouds) for name, clouds in named.items()}


def test_solids_have_the_sizes_and_classes_they_should(solids_dir, points):
  config = SolidsData(data_dir=solids_dir)
  config.validate()
  assert (config.num_train_examples, config.num_eval_examples) == (2000, 500)
  assert config.class_names == CLASSES
  spec = config.element_spec()
  assert {name: (s.shape, s.dtype) for name, s in spec.items()} == {
    'points': ((256, 3), np.dtype(np.float32)),
    'label': ((), np.dtype(np.int32)),
  }
  assert {name: cloud.shape for name, cloud in points.items()} == {
    name: (50, 256, 3) for name in CLASSES
  }


def test_no_two_solids_are_alike_and_they_are_always_the_same(tmp_path):
  builder = Solids(data_dir=tmp_path)
  once, again, test = (
    [example for _, example in builder._generate_examples(seed, 3)]
    for seed in (0, 0, 1)
  )
  for one, other in zip(once, again, strict=True):
    np.testing.assert_array_equal(one['points'], other['points'])
  clouds = [example['points'] for example in once + test]
  assert len({cloud.tobytes() for cloud in clouds}) == 60


def _residual(cloud, terms):
  """Returns how far the best quadric of these terms is from the points."""
  columns = np.stack([term(*cloud.T) for term in terms], axis=-1)
  best = np.linalg.lstsq(columns, np.ones(len(cloud)), rcond=None)[0]
  return np.abs(columns @ best - 1).max()


def test_spheres_are_stretched_spheres_that_lie_on_the_ground_plane(points):
  terms = [
    lambda x, y, z: x**2,
    lambda x, y, z: y**2,
    lambda x, y, z: z**2,
    lambda x, y, z: x * y,
  ]
  # Triangles cut off up to 4% of a unit sphere's square.
  assert max(_residual(cloud, terms) for cloud in points['sphere']) < 0.05
  assert min(_residual(cloud, terms) for cloud in points['box']) > 0.2


def test_rings_and_tori_have_a_hole_and_others_have_none(points):
  for name, clouds in points.items():
    radii = np.hypot(clouds[..., 0], clouds[..., 1]).min(axis=1)
    if name in ('ring', 'torus'):
      assert radii.min() > 0.1, name
    else:
      assert np.median(radii) < 0.1, name


@pytest.mark.parametrize('name', ['cone', 'pyramid', 'tetrahedron'])
def test_pointed_solids_stand_on_their_base(name, points):
  for cloud in points[name]:
    height = np.ptp(cloud[:, 2])
    low = np.mean(cloud[:, 2] < cloud[:, 2].min() + 0.5 * height)
    # Three quarters of the area of the sides is below half of their height.
    assert low > 0.65


def test_solids_are_turned_to_all_sides(points):
  # The long sides of boxes: of 50, some point in every direction.
  angles = [
    np.arctan2(*np.linalg.svd(cloud[:, :2] - cloud[:, :2].mean(0))[2][0][::-1])
    for cloud in points['box']
  ]
  counts, _ = np.histogram(np.mod(angles, np.pi), bins=4, range=(0, np.pi))
  assert counts.min() >= 3


def _radii_and_heights(cloud):
  """Returns what a turn about the upright axis leaves as it is."""
  return np.stack([np.hypot(*cloud[:, :2].T), cloud[:, 2]], axis=-1)


def test_training_turns_a_solid_about_the_upright_axis_to_all_sides():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(40, 3)).astype(np.float32)
  example = {'points': points - points.mean(axis=0), 'label': 3}
  config = SolidsData(is_turned=True, scale_range=(1.0, 1.0))
  still = config.preprocess(example, None)['points']
  np.testing.assert_array_equal(
    still, SolidsData().preprocess(example, None)['points']
  )
  angles = []
  for _ in range(100):
    moved = config.preprocess(example, rng)
    assert moved['label'] == 3
    cloud = moved['points']
    assert cloud.dtype == np.float32
    # They fill the cube anew, so one factor is free.
    scale = np.ptp(still[:, 2]) / np.ptp(cloud[:, 2])
    np.testing.assert_allclose(
      _radii_and_heights(scale * cloud), _radii_and_heights(still), atol=1e-5
    )
    # One angle for all points, and the sense of rotation is kept.
    turns = (scale * cloud[:, 0] + 1j * scale * cloud[:, 1]) / (
      still[:, 0] + 1j * still[:, 1]
    )
    np.testing.assert_allclose(turns, turns[0], atol=1e-3)
    angles.append(np.angle(turns[0]))
  counts, _ = np.histogram(angles, bins=4, range=(-np.pi, np.pi))
  assert counts.min() >= 10


def test_solids_are_not_turned_unless_they_should_be():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(40, 3)).astype(np.float32)
  config = SolidsData(scale_range=(1.0, 1.0))
  example = {'points': points, 'label': 3}
  np.testing.assert_allclose(
    config.preprocess(example, rng)['points'],
    config.preprocess(example, None)['points'],
    atol=1e-6,
  )
