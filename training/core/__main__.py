"""Print the page of the environment variables.

python -m training.core > docs/environment.md
"""

import sys

from training.core.environment import table

if __name__ == "__main__":
    sys.stdout.write(table())
