"""The former name of `python -m training.tracking`; removed in version 0.3."""

import sys

from training.core import cli
from training.tracking.__main__ import main

if __name__ == "__main__":
    sys.stderr.write("python -m training.tracker is now python -m training.tracking\n")
    cli.entry_point(main)
