"""AG-EgoPose: egocentric 3D human pose from a head-mounted fisheye camera."""

import os

# For `python -m agego_lib....` called without `make`, which says why. OpenMP reads it when torch is loaded, so before.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
