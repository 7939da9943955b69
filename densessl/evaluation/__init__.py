"""Evaluators in detectron2's form: `reset`, `process`, `evaluate` -> nested dict of plain floats.

Left without imports: a config names the module of the evaluator that it needs.
"""
