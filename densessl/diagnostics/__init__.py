"""Numbers that say whether a trunk's features are any good, while it trains and afterwards.

Left without imports: pure functions stand in one module per question, `suite` applies them to images,
`hook` calls the suite during training. What each number means: docs/diagnostics.md.
"""
