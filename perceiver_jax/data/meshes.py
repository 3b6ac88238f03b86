"""Meshes in OFF files, and points on them."""

import os
import re

import numpy as np
import trimesh
from jaxtyping import Float32

from perceiver_jax.data.unreadable import UnreadableError

# Some official files have no line break after the first word; the format allows
# comments before and after it.
_HEADER = re.compile(r'(?:\s|#.*\n)*C?OFF(?:\s|#.*\n)*(\d+)\s+(\d+)')


def read_off(path: str | os.PathLike[str]) -> trimesh.Trimesh:
  """Reads a mesh as it is in its file.

  Raises:
    UnreadableError: it is not a whole OFF file with faces that have an area.
  """
  if not os.path.isfile(path):  # A directory, or a link to nowhere.
    raise UnreadableError('it must be a file, got none.')
  with open(path, errors='replace') as file:
    header = _HEADER.match(file.read())
  if header is None:
    raise UnreadableError('it must begin as an OFF file does.')
  num_faces = int(header[2])
  if not num_faces:  # trimesh fails on it in a way that says nothing.
    raise UnreadableError('it must have faces, got none.')
  try:
    mesh = trimesh.load_mesh(path, file_type='off', process=False)
  except Exception as error:  # Parsers raise all sorts.
    raise UnreadableError(
      f'it must be readable, got {type(error).__name__}: {error}'
    ) from error
  if len(mesh.faces) < num_faces:  # Other polygons become several triangles.
    raise UnreadableError(
      f'it must have the {num_faces} faces it names, got {len(mesh.faces)}.'
    )
  if not 0.0 < mesh.area < np.inf:
    raise UnreadableError(f'its faces must have an area, got {mesh.area}.')
  return mesh


def sample_points(
  mesh: trimesh.Trimesh, num_points: int, rng: np.random.Generator
) -> Float32[np.ndarray, 'M 3']:
  """Draws points on the faces of a mesh, uniformly by area."""
  points, _ = trimesh.sample.sample_surface(mesh, num_points, seed=rng)
  return np.asarray(points, np.float32)
