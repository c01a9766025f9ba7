"""WNet, Segmenter and DINO: networks, losses and algorithms of three segmentation systems."""
