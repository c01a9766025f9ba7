"""Examples to read and to start from."""
