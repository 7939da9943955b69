"""Building blocks without knowledge of a method."""
