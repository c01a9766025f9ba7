"""WNet: an unsupervised autoencoder of two U-Nets with a soft normalised cut (Xia and Kulis, 2017)."""
