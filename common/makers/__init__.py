"""One file per layout of data that ``common/make_split.py`` can read: its ``Options`` and ``make``."""
