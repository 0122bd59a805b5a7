"""The one exception family of facekit. A message says what was wrong, in which file or row, and the remedy."""


class FacekitError(Exception):
    """Base of every error that facekit raises on purpose; its text is meant for the person at the keyboard."""


class ConfigError(FacekitError):
    """A setting, an option or an argument has a value that facekit cannot use."""


class DataError(FacekitError):
    """A photo, a label table, an archive or a stored set is missing, damaged or inconsistent."""


class WeightsError(FacekitError):
    """Pretrained weights are missing, damaged, or not of the expected network."""


class TrainingError(FacekitError):
    """Training cannot go on: a loss that is not finite, a checkpoint of another run, nothing to train."""


class LessonError(FacekitError):
    """A lesson's source, notebook, exercise or quiz breaks the rules of the course."""


class OutputError(FacekitError):
    """Results have no place: somebody else's file has their name, another process writes the folder, a disk is full."""
