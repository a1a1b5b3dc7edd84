"""The command `python -m agego_lib.predict`; what it does is in agego_video/predict.py."""

import sys

from agego_video.predict import main

if __name__ == "__main__":
    sys.exit(main())
