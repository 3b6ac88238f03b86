"""The check of shapes and types in signatures, while the tests run.

An `int` is fine where a `float` is expected, as PEP 484 has it.
"""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
