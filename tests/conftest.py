"""Options and fixtures that several test files share."""

import pytest

from perceiver_jax.xla_flags import set_cpu_flags

set_cpu_flags()


def pytest_addoption(parser):
  parser.addoption(
    '--update-golden',
    action='store_true',
    help='write tests/golden/ anew, then look at its diff',
  )


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
  """A TFDS directory that holds the digits, prepared."""
  from perceiver_jax.data.digits import DigitsData

  data_dir = str(tmp_path_factory.mktemp('tfds'))
  DigitsData(data_dir=data_dir).builder()
  return data_dir


@pytest.fixture(scope='session')
def imagenet_dir(tmp_path_factory):
  """A TFDS directory that holds `imagenet2012`, made of a few images."""
  import imagenet_tars

  data_dir = tmp_path_factory.mktemp('imagenet')
  imagenet_tars.prepare(data_dir, 'tfrecord')
  return str(data_dir)
