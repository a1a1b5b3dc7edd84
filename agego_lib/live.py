"""The command `python -m agego_lib.live`; what it does is in agego_video/live.py."""

import sys

from agego_video.live import main

if __name__ == "__main__":
    sys.exit(main())
