"""The command line, one file a command; a command is loaded when it is called, and nothing imports from here."""
