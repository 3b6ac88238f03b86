"""A TFDS builder that makes solids and draws points on them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

CLASSES = (
  'box', 'capsule', 'cone', 'cylinder', 'prism', 'pyramid', 'ring', 'sphere',
  'tetrahedron', 'torus',
)  # fmt: skip
NUM_POINTS = 256
_NUM_EXAMPLES = {'train': 200, 'test': 50}  # Of each class.
# Factors by which the axes of a solid are stretched.
_STRETCH = (0.6, 1.4)

_DESCRIPTION = """
2,500 solids of ten kinds, 2,000 for training and 500 for test, each as 256
points on its surface. Each is stretched along its axes by factors of its own
and turned by any angle about the upright axis, so that no two are alike; they
stand or lie as their kind does, like the models of ModelNet40.
"""


class Solids(tfds.core.GeneratorBasedBuilder):
  """The solids; named `solids` in TFDS."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    points = tfds.features.Tensor(
      shape=(NUM_POINTS, 3),
      dtype=np.float32,
      encoding=tfds.features.Encoding.BYTES,
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'points': points,
          'label': tfds.features.ClassLabel(names=CLASSES),
        }
      ),
      supervised_keys=('points', 'label'),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: self._generate_examples(seed, count)
      for seed, (split, count) in enumerate(_NUM_EXAMPLES.items())
    }

  def _generate_examples(
    self, seed: int, count: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    # Imported here because it takes a second and is needed once.
    from trimesh import creation

    from perceiver_jax.data.meshes import sample_points

    make = {
      'box': creation.box,
      'capsule': lambda: creation.capsule(height=0.6, radius=0.3),
      'cone': lambda: creation.cone(0.5, 1.0),
      'cylinder': lambda: creation.cylinder(0.5, 1.0),
      'prism': lambda: creation.cylinder(0.5, 1.0, sections=3),
      'pyramid': lambda: creation.cone(0.5, 1.0, sections=4),
      'ring': lambda: creation.annulus(0.35, 0.5, 0.3),
      'sphere': lambda: creation.icosphere(2, 0.5),
      'tetrahedron': lambda: creation.cone(0.5, 1.0, sections=3),
      'torus': lambda: creation.torus(0.4, 0.12),
    }
    for key in range(count * len(CLASSES)):
      label = CLASSES[key % len(CLASSES)]
      rng = np.random.default_rng([seed, key])
      mesh = make[label]()
      mesh.apply_scale(rng.uniform(*_STRETCH, size=3))
      points = sample_points(mesh, NUM_POINTS, rng)
      yield key, {'points': turned(points, rng), 'label': label}


def turned(
  points: Float[np.ndarray, 'M 3'], rng: np.random.Generator
) -> Float[np.ndarray, 'M 3']:
  """Turns points about the z axis by any angle."""
  angle = rng.uniform(0.0, 2 * np.pi)
  sine, cosine = np.sin(angle), np.cos(angle)
  turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
  return (points @ turn.T).astype(np.float32)
