"""Space-time motion segmentation from optical flow (ST-MS, Meunier and Bouthemy, CVPR 2023)."""
