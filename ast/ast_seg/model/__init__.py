"""The networks: background auto-encoder, feature maps (U-Net, SegFormer), slot encoder, glimpses and renderer."""
