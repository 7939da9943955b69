"""Clustering of dense features, and the matching of clusters to classes."""
