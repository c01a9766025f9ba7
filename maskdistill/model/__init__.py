"""The networks: the ViT that gives features, the DeepLab family that is trained, the Mask R-CNN between them."""
