"""Names of data sets. Nothing is imported here; `builtin` and `sample` register names when imported."""
