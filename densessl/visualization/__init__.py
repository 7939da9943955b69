"""Pictures of a run: curves, dense correspondences, feature maps, detections, and the page that shows them.

Nothing here is imported by training. `tools/make_report.py` is the thin command over `report.py`.
"""
