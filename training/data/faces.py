"""The former name of `python -m training.data.synthetic.faces`; removed in version 0.3."""

import sys

from training.core import cli
from training.data.synthetic.faces import main

if __name__ == "__main__":
    sys.stderr.write(
        "python -m training.data.faces is now python -m training.data.synthetic.faces\n"
    )
    cli.entry_point(main)
