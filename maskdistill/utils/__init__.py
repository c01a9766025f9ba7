"""Stage B under its original path."""
