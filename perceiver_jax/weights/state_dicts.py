"""Files of PyTorch's state dicts, as NumPy arrays by name.

`*.safetensors` need NumPy only; `*.bin` and `*.pt`, which are pickles, need
PyTorch, and are read by it as weights only, so that nothing in them is run.
Before version 2.6 that could be got around (CVE-2025-32434).
"""

import pathlib
import types
from collections.abc import Mapping

import numpy as np

from perceiver_jax.weights import files

_PICKLES = ('.bin', '.pt')
_SAFE_TORCH = (2, 6)


def read_state_dict(path: files.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of a state dict.

  Raises:
    ValueError: the file is damaged, or holds anything but arrays by name.
    OSError: there is no such file, or it cannot be read.
    ImportError: it needs PyTorch, which is not installed or before 2.6.
  """
  if not _is_pickle(path):
    return files.read_safetensors(path)[0]
  torch = _torch(path)
  version = tuple(map(int, torch.__version__.split('.')[:2]))
  if version < _SAFE_TORCH:
    raise ImportError(
      f'PyTorch must be 2.6 or later to read {path}, since before a file could '
      'make it run anything (CVE-2025-32434), or take the .safetensors file '
      f'instead; got {torch.__version__}.'
    )
  with open(path, 'rb') as file:
    try:
      state_dict = torch.load(file, map_location='cpu', weights_only=True)
      return {_name(name): a.numpy() for name, a in state_dict.items()}
    except Exception as error:  # Damaged bytes may raise anything.
      raise ValueError(
        f'{path} must be a state dict of PyTorch, arrays by name and nothing '
        f'else, got: {error}'
      ) from error


def write_state_dict(
  path: files.Path, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes what `read_state_dict` reads.

  Raises:
    OSError: the file cannot be written.
    ImportError: it needs PyTorch, which is not installed.
  """
  if not _is_pickle(path):
    # Without this entry, `from_pretrained` refuses the file.
    files.write_safetensors(path, arrays, {'format': 'pt'})
    return
  torch = _torch(path)
  tensors = {name: torch.tensor(array) for name, array in arrays.items()}
  files.write_whole(path, lambda part: torch.save(tensors, part))


def _is_pickle(path: files.Path) -> bool:
  suffix = pathlib.Path(path).suffix
  if suffix not in (*_PICKLES, '.safetensors'):
    raise ValueError(
      f'the name of a state dict must end in {", ".join(_PICKLES)} or '
      f'.safetensors, got {path}.'
    )
  return suffix in _PICKLES


def _name(key: object) -> str:
  if not isinstance(key, str):
    raise TypeError(f'{key!r} in place of a name')
  return key


def _torch(path: files.Path) -> types.ModuleType:
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f'PyTorch must be installed for {path}, or take the .safetensors file '
      f'instead; got: {error}.'
    ) from error
  return torch
