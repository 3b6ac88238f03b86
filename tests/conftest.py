"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
  """A TFDS directory that holds the digits, prepared."""
  from perceiver_jax.data.digits import DigitsData

  data_dir = str(tmp_path_factory.mktemp('tfds'))
  DigitsData(data_dir=data_dir).builder()
  return data_dir
