"""Options and fixtures that several test files share."""

import os
import pathlib
import pkgutil
import shutil

# Tests share the machine among processes, and know the rounding of a CPU.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Read when TensorFlow first sees a bucket, in whichever test that is. Ten
# retries take minutes.
os.environ.setdefault('GCS_RETRY_CONFIG_MAX_RETRIES', '1')

import jax
import jaxtyping
import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / 'perceiver_jax'
# `Config` checks its fields by itself, and beartype knows no `Self` there.
_CHECKED = {module.name for module in pkgutil.iter_modules([str(_PACKAGE)])}
_CHECKED -= {'config'}

# Before anything of the package is imported, or it would stay unchecked.
jaxtyping.install_import_hook(
  [f'perceiver_jax.{name}' for name in sorted(_CHECKED)], 'runtime_types.check'
)

from perceiver_jax.xla_flags import set_cpu_flags  # noqa: E402

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


@pytest.fixture(scope='session')
def modelnet40_dir(tmp_path_factory):
  """A TFDS directory that holds both forms: of pyramids, of random points."""
  import modelnet40_files

  from perceiver_jax.data import modelnet40

  data_dir = tmp_path_factory.mktemp('modelnet40')
  manual_dir = tmp_path_factory.mktemp('meshes')
  modelnet40_files.write_meshes(manual_dir)
  modelnet40_files.write_point_sets(manual_dir)
  for form in ('meshes', 'point_sets'):
    modelnet40.prepare(
      f'modelnet40/{form}', manual_dir, data_dir, 'array_record'
    )
  return str(data_dir)


@pytest.fixture(scope='session')
def tones_manual_dir(tmp_path_factory):
  """A directory with lists and clips of AudioSet, which are tones."""
  import audioset_tones

  directory = tmp_path_factory.mktemp('tones_manual')
  audioset_tones.write(directory)
  return directory


@pytest.fixture(scope='session')
def tones_dir(tones_manual_dir, tmp_path_factory):
  """A TFDS directory that holds `audioset`, prepared from the tones."""
  from perceiver_jax.data.audioset.prepare import prepare

  directory = tmp_path_factory.mktemp('tones')
  prepare(tones_manual_dir, directory)
  return directory


@pytest.fixture(scope='session')
def audioset_dir(tmp_path_factory):
  """A TFDS directory that holds `audioset`, made of a few clips."""
  import audioset_dir

  return audioset_dir.make(tmp_path_factory.mktemp('audioset'))


@pytest.fixture(scope='session')
def solids_dir(tmp_path_factory):
  """A TFDS directory that holds the solids, prepared."""
  from perceiver_jax.data.solids import SolidsData

  data_dir = str(tmp_path_factory.mktemp('solids'))
  SolidsData(data_dir=data_dir).builder()
  return data_dir


@pytest.fixture(scope='session')
def sights_and_sounds_dir(tmp_path_factory):
  """A TFDS directory that holds the bouncing shapes, prepared."""
  from perceiver_jax.data.sights_and_sounds import SightsAndSoundsData

  data_dir = str(tmp_path_factory.mktemp('sights_and_sounds'))
  SightsAndSoundsData(data_dir=data_dir).builder()
  return data_dir


@pytest.fixture(scope='session')
def spoken_words_dir(tmp_path_factory):
  """A TFDS directory that holds the spoken words, prepared."""
  if shutil.which('espeak-ng') is None:
    pytest.skip('espeak-ng, which speaks the words, is not installed')
  from perceiver_jax.data.spoken_words import SpokenWordsData

  data_dir = str(tmp_path_factory.mktemp('spoken_words'))
  SpokenWordsData(data_dir=data_dir).builder()
  return data_dir


@pytest.fixture(autouse=True)
def no_type_checks_where_input_is_refused(request):
  """Lets a test named `..._refused` see the error that a user would see."""
  is_off = 'refused' in request.node.name
  jaxtyping.config.update('jaxtyping_disable', is_off)


@pytest.fixture
def same_precision():
  """Takes back what the test makes of the precision of products."""
  before = jax.config.jax_default_matmul_precision
  yield
  jax.config.update('jax_default_matmul_precision', before)


@pytest.fixture(scope='module')
def fast_compilation(tmp_path_factory):
  """Compiles fast and keeps the results, here and in subprocesses.

  For tests of what goes on around the numbers.
  """
  settings = {
    'jax_disable_most_optimizations': True,
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.1,
  }
  before = {name: jax.config.values[name] for name in settings}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      jax.config.update(name, value)
      patch.setenv(name.upper(), str(value))
    yield
  for name, value in before.items():
    jax.config.update(name, value)
