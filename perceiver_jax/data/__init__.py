"""One file per data source; knows no model and no device."""

import os

# Both must be set before TensorFlow is first imported, by TFDS or by the user.
# Without the first, every process tries for about ten seconds to reach the
# metadata server of Google's cloud; on such a machine set it to "false".
os.environ.setdefault('NO_GCE_CHECK', 'true')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
