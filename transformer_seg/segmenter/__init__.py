"""Segmenter: supervised segmentation with a vision transformer (Strudel et al., ICCV 2021)."""
