"""Backbones, heads and meta-architectures. Config files import what they name."""
