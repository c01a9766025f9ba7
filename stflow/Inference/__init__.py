"""The inference commands under the original repository's names."""
