"""Benchmarks made of many training runs: planned, run or resumed one by one, collected into a table.

`tools/benchmark_transfer.py` (checkpoints x downstream recipes x seeds) and `tools/compare_methods.py`
(pretraining methods x seeds, then the same fine-tuning for all) stand on it:

    suites, plan      what is to be run, as a list of cells: pure
    checks, leaks     everything that can be known to be wrong before the first run
    records, runner   one trainer process per cell; finished cells are recognised
    collect, statistics, tables, plots   mean, deviation and paired differences, with what is missing named
"""
