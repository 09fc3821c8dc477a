"""The former name of `python -m pipelines.local.stack`; removed in version 0.3."""

import sys

from pipelines.local.stack import main
from training.core import cli

if __name__ == "__main__":
    sys.stderr.write("python -m pipelines.stack is now python -m pipelines.local.stack\n")
    cli.entry_point(main)
