"""Stands for tools/lazyconfig_train_net.py: leaves its files without training. Standard library only.

FAKE_TRAINER names a folder: `<cell>.yaml` is the config to leave, `behaviour.json` says {cell: what to do}:
"fail", "wait" (until SIGTERM, once), "no evaluation", or results; `calls.txt` gets a line per call.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

OPTIONS = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
FOLDER = Path(os.environ["FAKE_TRAINER"])
OUTPUT = Path(OPTIONS["train.output_dir"])
CELL = "/".join(OUTPUT.parts[-3:])
MODE = "evaluate" if "--eval-only" in sys.argv else "train"
STEPS = 10


def stop(signum: int, frame: object) -> None:
    (OUTPUT / "model_0000005.pth").write_bytes(b"half")
    print(f"TrainingInterrupted: Stopped by {signal.Signals(signum).name}", file=sys.stderr)
    sys.exit(128 + signum)


def evaluate(results: dict) -> None:
    content = {"iteration": None if MODE == "evaluate" else STEPS, "results": results}
    (OUTPUT / "evaluation.json").write_text(json.dumps(content))


behaviour = json.loads((FOLDER / "behaviour.json").read_text()).get(CELL)
with open(FOLDER / "calls.txt", "a") as stream:
    stream.write(f"{MODE} {CELL} {OPTIONS.get('train.init_checkpoint', '')}\n")
OUTPUT.mkdir(parents=True, exist_ok=True)
results = behaviour if isinstance(behaviour, dict) else {"bbox": {"AP": 10.0 + int(OPTIONS["train.seed"])}}
if MODE == "evaluate":
    evaluate(results)
    sys.exit(0)
shutil.copy(FOLDER / f"{CELL.replace('/', '-')}.yaml", OUTPUT / "config.yaml")
if behaviour == "fail":
    print("step 3\n\x1b[32mNonFiniteError: loss_cls is nan\x1b[0m", file=sys.stderr)
    sys.exit(5)
if behaviour == "wait" and not (OUTPUT / "model_0000005.pth").exists():
    signal.signal(signal.SIGTERM, stop)
    (FOLDER / "waiting").touch()
    time.sleep(60)
content = CELL.encode()
(OUTPUT / "model_final.pth").write_bytes(content)
sidecar = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "iteration": STEPS}
(OUTPUT / "model_final.pth.json").write_text(json.dumps(sidecar))
if not CELL.endswith("pretrain") and behaviour != "no evaluation":
    evaluate(results)
