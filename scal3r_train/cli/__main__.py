"""python -m scal3r_train.cli, the same as `scal3r`."""

import sys

from scal3r_train.cli import main

sys.exit(main())
