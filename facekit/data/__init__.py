"""Everything that ends in a FaceSet (photos with labels) or a FeatureSet (embeddings with labels)."""
