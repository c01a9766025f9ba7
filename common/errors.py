"""The one exception that stands for a user's mistake.

Every command turns an ``InputError`` into a single line on standard error and exit code 2; every other exception is a
defect of this project and keeps its traceback.
"""


class InputError(Exception):
    """Bad usage or bad input: one line naming the file or flag, the value seen and the remedy."""
