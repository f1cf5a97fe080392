"""What all the processes of the tests share."""

import os
import sys

# Containers often forbid bytecode. Hundreds of processes start here, and each would compile its imports anew: 4 s a run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
