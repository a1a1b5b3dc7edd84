"""The command `python -m agego_lib.camera`; what it does is in agego_video/calibrate.py."""

import sys

from agego_video.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
