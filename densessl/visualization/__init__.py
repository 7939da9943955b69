"""Pictures of a run: curves, dense correspondences, feature maps, detections, and the page that shows them.

Training imports the rules of `health.py` and `curves.py` at most. `tools/make_report.py` is the thin command
over `report.py`; tools/visualize_*.py are those over single pictures.
"""
