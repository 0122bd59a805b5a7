"""Lets `python -m facekit` run the command line."""

import sys

from facekit.commands.cli import main

sys.exit(main())
