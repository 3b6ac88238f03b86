"""A TFDS builder over ModelNet40, from its meshes or as sets of points."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Float32

from perceiver_jax.data.unreadable import UnreadableError

CLASSES = (
  'airplane', 'bathtub', 'bed', 'bench', 'bookshelf', 'bottle', 'bowl', 'car',
  'chair', 'cone', 'cup', 'curtain', 'desk', 'door', 'dresser', 'flower_pot',
  'glass_box', 'guitar', 'keyboard', 'lamp', 'laptop', 'mantel', 'monitor',
  'night_stand', 'person', 'piano', 'plant', 'radio', 'range_hood', 'sink',
  'sofa', 'stairs', 'stool', 'table', 'tent', 'toilet', 'tv_stand', 'vase',
  'wardrobe', 'xbox',
)  # fmt: skip
NUM_POINTS = 2048
SKIPPED = 'skipped'

_DESCRIPTION = """
12,311 CAD models of 40 classes of things, 9,843 for training and 2,468 for
test, each as 2,048 points on its surface, with the coordinates of its mesh. The
point sets that were published with PointNet are of 9,840 of those for training.
"""

_CITATION = """
@inproceedings{wu2015shapenets,
  title={3D ShapeNets: A Deep Representation for Volumetric Shapes},
  author={Wu, Zhirong and Song, Shuran and Khosla, Aditya and Yu, Fisher and
    Zhang, Linguang and Tang, Xiaoou and Xiao, Jianxiong},
  booktitle={CVPR},
  year={2015}
}
"""

_INSTRUCTIONS = """
modelnet40/meshes: unpack ModelNet40.zip of https://modelnet.cs.princeton.edu,
so that there is ModelNet40/chair/train/chair_0001.off and so on.
modelnet40/point_sets: unpack modelnet40_ply_hdf5_2048.zip, the points that were
published with PointNet, so that there is modelnet40_ply_hdf5_2048/.
"""

_log = logging.getLogger(__name__)

Keyed = Iterator[tuple[str, dict[str, Any]]]


class Meshes(tfds.core.BuilderConfig):
  """The official OFF files; points are drawn uniformly by area.

  Which points are drawn depends on the name of the mesh alone.
  """

  directory = 'ModelNet40'
  num_examples: ClassVar = {'train': 9_843, 'test': 2_468}  # Published.

  def examples(
    self, manual_dir: epath.Path, split: str, skipped: dict[str, str]
  ) -> Keyed:
    """Yields keys and examples of a split.

    Args:
      manual_dir: has `directory`.
      split: 'train' or 'test'.
      skipped: gets the file of each mesh that is left out, and why it is.

    Raises:
      ValueError: the directories are not those of ModelNet40, or one of them
        has no meshes, which is said before any is read.
    """
    # Imported here because it takes a second and is needed once.
    from perceiver_jax.data.meshes import read_off, sample_points

    root = manual_dir / self.directory
    directories = [p.name for p in root.glob('[!._]*') if p.is_dir()]
    _check_classes(directories, f'the directories in {root}')
    for label, part in itertools.product(CLASSES, self.num_examples):
      if not any((root / label / part).glob('*.off')):
        raise ValueError(
          f'{root / label / part} must have meshes, got no OFF file; unpack '
          'the archive as a whole.'
        )
    for label in CLASSES:
      for path in sorted((root / label / split).glob('*.off')):
        try:
          mesh = read_off(path)
        except UnreadableError as error:
          skipped[str(path.relative_to(manual_dir))] = str(error)
          continue
        rng = np.random.default_rng(list(path.stem.encode()))
        points = sample_points(mesh, NUM_POINTS, rng)
        key = f'{label}/{path.stem}'
        yield key, {'points': points, 'label': label, 'name': key}


class PointSets(tfds.core.BuilderConfig):
  """The HDF5 files, published with PointNet, that most papers use."""

  directory = 'modelnet40_ply_hdf5_2048'
  num_examples: ClassVar = {'train': 9_840, 'test': 2_468}  # Published.

  def examples(
    self, manual_dir: epath.Path, split: str, skipped: dict[str, str]
  ) -> Keyed:
    """Yields keys and examples of a split.

    Args:
      manual_dir: has `directory`.
      split: 'train' or 'test'.
      skipped: stays empty; a broken file is an error, for it has hundreds of
        examples.

    Raises:
      ValueError: the files are not those of ModelNet40, or cannot be read.
    """
    del skipped
    root = manual_dir / self.directory
    names = _lines(root / 'shape_names.txt')
    _check_classes(names, 'shape_names.txt')
    # Labels in the files are places in this list.
    if names != list(CLASSES):
      raise ValueError(
        'shape_names.txt must have the classes in alphabetical order, got '
        f'{names}.'
      )
    for line in _lines(root / f'{split}_files.txt'):
      path = root / epath.Path(line).name  # Its directory is somebody else's.
      for number, (points, label) in enumerate(_read_hdf5(path)):
        key = f'{path.stem}/{number}'
        yield key, {'points': points, 'label': label, 'name': key}


class ModelNet40(tfds.core.GeneratorBasedBuilder):
  """ModelNet40; meshes that are left out are listed in `info.metadata`."""

  name = 'modelnet40'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012
  BUILDER_CONFIGS = [  # noqa: RUF012
    Meshes(name='meshes', description='Drawn from the official meshes.'),
    PointSets(name='point_sets', description='As published with PointNet.'),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS

  def _info(self) -> tfds.core.DatasetInfo:
    # As bytes, which are read ten times as fast as lists of floats.
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
          'name': tfds.features.Text(),
        }
      ),
      supervised_keys=('points', 'label'),
      homepage='https://modelnet.cs.princeton.edu',
      citation=_CITATION,
      metadata=tfds.core.MetadataDict({SKIPPED: {}}),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Keyed]:
    return {
      split: self._generate_examples(dl_manager.manual_dir, split)
      for split in self.builder_config.num_examples
    }

  def _generate_examples(self, manual_dir: epath.Path, split: str) -> Keyed:
    skipped: dict[str, str] = {}
    count = 0
    for example in self.builder_config.examples(manual_dir, split, skipped):
      count += 1
      yield example
    self.info.metadata[SKIPPED][split] = skipped
    for file, reason in skipped.items():
      _log.warning('Left out %s: %s', file, reason)
    _log.info('%s: %d examples, %d left out', split, count, len(skipped))
    if not count:
      raise ValueError(
        f'{manual_dir} must have examples that can be read for {split!r}, got '
        f'none and {len(skipped)} that cannot.'
      )
    published = self.builder_config.num_examples[split]
    if count != published:
      _log.warning(
        '%s must have %d examples, as published, got %d, and %d left out.',
        split,
        published,
        count,
        len(skipped),
      )


def _check_classes(names: Sequence[str], subject: str) -> None:
  missing, unknown = set(CLASSES) - set(names), set(names) - set(CLASSES)
  if missing or unknown:
    raise ValueError(
      f'{subject} must be the 40 classes, got {len(names)}, without '
      f'{sorted(missing)}, and with {sorted(unknown)}.'
    )


def _lines(path: epath.Path) -> list[str]:
  if not path.exists():
    raise ValueError(f'{path} must exist, got no such file.')
  return path.read_text().split()


def _read_hdf5(
  path: epath.Path,
) -> Iterator[tuple[Float32[np.ndarray, 'M 3'], int]]:
  """Returns the points and the label of each example.

  Raises:
    ValueError: the file is not one of ModelNet40.
  """
  # Imported here because only this form of the data set needs it.
  import h5py

  try:
    with h5py.File(path) as file:
      points, labels = file['data'][:], file['label'][:].reshape(-1)
  except (OSError, KeyError) as error:
    raise ValueError(
      f"{path} must be an HDF5 file with 'data' and 'label', got "
      f'{type(error).__name__}: {error}'
    ) from error
  if points.shape != (len(labels), NUM_POINTS, 3):
    raise ValueError(
      f'{path} must have {NUM_POINTS} points for each of its {len(labels)} '
      f'labels, got {points.shape}.'
    )
  return zip(points.astype(np.float32), labels.tolist(), strict=True)
