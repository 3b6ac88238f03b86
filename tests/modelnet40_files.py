"""Files like those of ModelNet40, of a few triangles each."""

import h5py
import numpy as np

from perceiver_jax.data.modelnet40_builder import CLASSES, NUM_POINTS

NUM_EXAMPLES = {'train': 2, 'test': 1}  # Of each class.


def off(vertices, faces, header='OFF\n') -> str:
  """Returns the text of a mesh."""
  lines = [f'{header}{len(vertices)} {len(faces)} 0']
  lines += [' '.join(map(str, vertex)) for vertex in vertices]
  lines += [' '.join(map(str, [len(face), *face])) for face in faces]
  return '\n'.join(lines) + '\n'


def write_meshes(manual_dir) -> None:
  """Writes a pyramid, of another height for each class, again and again."""
  for label, name in enumerate(CLASSES):
    top = [0.5, 0.5, 0.1 * (label + 1)]
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], top]
    faces = [[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 0, 3]]
    for split, count in NUM_EXAMPLES.items():
      directory = manual_dir / 'ModelNet40' / name / split
      directory.mkdir(parents=True)
      for number in range(count):
        # As in the official files, some with their numbers in the first line.
        text = off(vertices, faces, 'OFF' if number % 2 else 'OFF\n')
        (directory / f'{name}_{split}_{number}.off').write_text(text)


def write_point_sets(manual_dir) -> dict[str, list[np.ndarray]]:
  """Writes random points in two files for training, and one for test.

  Returns:
    The points of each split, file by file; labels count up from 0 in each.
  """
  root = manual_dir / 'modelnet40_ply_hdf5_2048'
  root.mkdir()
  (root / 'shape_names.txt').write_text('\n'.join(CLASSES) + '\n')
  rng = np.random.default_rng(0)
  written = {}
  for split, sizes in {'train': (3, 4), 'test': (2,)}.items():
    names, written[split] = [], []
    for number, size in enumerate(sizes):
      points = rng.normal(size=(size, NUM_POINTS, 3)).astype(np.float32)
      names.append(f'ply_data_{split}{number}.h5')
      with h5py.File(root / names[-1], 'w') as file:
        file['data'] = points
        file['label'] = np.arange(size, dtype=np.uint8)[:, np.newaxis]
      written[split].append(points)
    lines = [f'data/modelnet40_ply_hdf5_2048/{name}\n' for name in names]
    (root / f'{split}_files.txt').write_text(''.join(lines))
  return written
