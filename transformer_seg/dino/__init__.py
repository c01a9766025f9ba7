"""DINO: self-distillation of a vision transformer (Caron et al., ICCV 2021)."""
