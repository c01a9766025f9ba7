"""The evaluation command under the original repository's name."""
