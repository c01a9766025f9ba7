"""MaskDistill: object masks from a self-supervised ViT, clustered, refined and distilled into a semantic model."""
