"""Stages E and F: a semantic network on label maps, its predictions with a dense CRF, a linear probe."""
