"""The architecture of the package: layers, sizes, imports, live fields."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from perceiver_jax.config import Config

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'perceiver_jax'
FILES = sorted(PACKAGE.rglob('*.py'))

# By the longest prefix of the module's name; imports never climb.
LAYERS = {
  'perceiver_jax.config': 0,
  'perceiver_jax.arrays': 0,
  'perceiver_jax.buckets': 0,
  'perceiver_jax.ffmpeg': 0,
  'perceiver_jax.progress': 0,
  'perceiver_jax.whole_files': 0,
  'perceiver_jax.xla_flags': 0,
  'perceiver_jax.nn': 1,
  'perceiver_jax.modalities': 2,
  'perceiver_jax.model': 3,
  'perceiver_jax.modules': 3,
  'perceiver_jax': 4,
  'perceiver_jax.attention_maps': 4,
  'perceiver_jax.build': 4,
  'perceiver_jax.flops': 4,
  'perceiver_jax.presets': 4,
  'perceiver_jax.summary': 4,
  'perceiver_jax.weights': 4,
  'perceiver_jax.predict': 5,
  'perceiver_jax.predict.__main__': 8,
  'perceiver_jax.tasks': 5,
  'perceiver_jax.data': 5,
  'perceiver_jax.training': 6,
  'perceiver_jax.training.loop': 7,
  'perceiver_jax.training.dry_run': 7,
  'configs': 8,
  'train': 8,
}
MAX_LINES_OF_A_FILE = 400
MAX_LINES_OF_A_FUNCTION = 50


def _module(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts).removesuffix('.__init__')


MODULES = {_module(path): path for path in FILES}


def _layer(module):
  if module not in LAYERS:
    parent = module.rpartition('.')[0]
    assert parent != 'perceiver_jax', f'{module} must be given a layer'
    return _layer(parent)
  return LAYERS[module]


def _imports(tree):
  """Yields the modules of this package that a file imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, 'imports must be absolute'
      members = [f'{node.module}.{alias.name}' for alias in node.names]
      names = [m if m in MODULES else node.module for m in members]
    else:
      continue
    yield from (name for name in names if name in MODULES)


@pytest.mark.parametrize('path', FILES, ids=_module)
def test_imports_go_only_to_lower_layers(path):
  module = _module(path)
  tree = ast.parse(path.read_text())
  climbing = {name for name in _imports(tree) if _layer(name) > _layer(module)}
  assert not climbing


def test_data_knows_no_model_and_a_task_no_data_set():
  for first, second in [('tasks', 'data'), ('data', 'tasks')]:
    for path in (PACKAGE / first).rglob('*.py'):
      imported = ''.join(_imports(ast.parse(path.read_text())))
      assert f'perceiver_jax.{second}' not in imported, path
  shared = ('buckets', 'config', 'data', 'ffmpeg', 'progress', 'whole_files')
  for path in (PACKAGE / 'data').rglob('*.py'):
    allowed = tuple(f'perceiver_jax.{name}' for name in shared)
    for name in _imports(ast.parse(path.read_text())):
      assert name.startswith(allowed), f'{path} imports {name}'


@pytest.mark.parametrize('path', [*FILES, ROOT / 'train.py'], ids=_module)
def test_files_and_functions_are_short(path):
  text = path.read_text()
  limit = 110 if path.name == 'train.py' else MAX_LINES_OF_A_FILE
  assert text.count('\n') <= limit
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      length = node.end_lineno - node.lineno + 1
      documented = ast.get_docstring(node, clean=False) or ''
      length -= documented.count('\n')
      assert length <= MAX_LINES_OF_A_FUNCTION, node.name


def test_importing_the_package_is_light():
  heavy = {
    'tensorflow', 'tensorflow_datasets', 'grain', 'orbax', 'matplotlib',
    'sklearn', 'ml_collections', 'tensorboardX', 'torch', 'cv2', 'PIL',
    'imageio_ffmpeg',
  }  # fmt: skip
  program = 'import sys, perceiver_jax; print(*sys.modules)'
  loaded = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert not heavy & set(loaded.stdout.split())


def _fields_and_reads():
  """Returns the fields of configs by class, and the names that are read."""
  fields, reads = {}, set()
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        reads.add(node.attr)
      elif isinstance(node, ast.ClassDef):
        fields[node.name] = [
          statement.target.id
          for statement in node.body
          if isinstance(statement, ast.AnnAssign)
        ]
  return fields, reads


def test_every_field_of_a_config_is_read():
  for module in MODULES:
    importlib.import_module(module)
  fields, reads = _fields_and_reads()
  configs, pending = set(), [Config]
  while pending:
    pending += (subclasses := pending.pop().__subclasses__())
    configs |= {c.__name__ for c in subclasses if c.__module__ in MODULES}
  assert {'TrainConfig', 'DigitsData', 'PerceiverConfig'} <= configs
  unread = {
    f'{name}.{field}'
    for name in configs
    for field in fields[name]
    if field not in reads
  }
  assert not unread
