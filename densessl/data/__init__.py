"""Images to batches: sources, decoding, order, views. Nothing is imported here; name the module you need."""
