"""densessl: dense self-supervised pretraining and its downstream fine-tuning, on Detectron2.

Importing the package brings no model, data or evaluation code: a LazyConfig file imports what it
names. The environment is checked here so that a missing piece is reported with its remedy.
"""

from densessl.requirements import check_environment

__version__ = "0.1.0"

check_environment()
