"""Lets `python -m facekit` run the command line."""

from facekit.commands.cli import end, main

end(main())
