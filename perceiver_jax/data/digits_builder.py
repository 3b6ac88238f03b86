"""A TFDS builder over the handwritten digits inside scikit-learn."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """
1,797 handwritten digits, 8x8 pixels of 17 grey levels, by 43 writers: the test
set of "Optical Recognition of Handwritten Digits" as scikit-learn ships it.
Here every fifth example of each class is test (355), the others are train
(1,442); grey level v in 0..16 is stored as 255 v / 16, rounded half up.
"""

_CITATION = """
@misc{alpaydin1998optical,
  title={Optical Recognition of Handwritten Digits},
  author={Alpaydin, E. and Kaynak, C.},
  year={1998},
  howpublished={UCI Machine Learning Repository},
  doi={10.24432/C50P49}
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """The digits; named `digits` in TFDS."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    # A Tensor rather than an Image: PNG would need TensorFlow to write (10 s
    # to import) and five times as long to read.
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
          'label': tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
      citation=_CITATION,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      'train': self._generate_examples(is_test=False),
      'test': self._generate_examples(is_test=True),
    }

  def _generate_examples(
    self, is_test: bool
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    # Imported here because it takes seconds and is needed once.
    from sklearn import datasets

    digits = datasets.load_digits()
    levels = digits.images.astype(np.int64)
    images = ((255 * levels + 8) // 16).astype(np.uint8)[..., np.newaxis]
    seen = [0] * 10
    for key, (image, label) in enumerate(
      zip(images, digits.target.tolist(), strict=True)
    ):
      seen[label] += 1
      if (seen[label] % 5 == 0) == is_test:
        yield key, {'image': image, 'label': label}
