"""What is measured with the kit: the study, the costs, the reproduction page; and the committed result files.

Not the library: run these from the project's folder, `python -m benchmarks.study --help`. The lessons' kit lies
beside the notebooks; this is where its folder becomes known.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

if str(ROOT / "notebooks") not in sys.path:
    sys.path.append(str(ROOT / "notebooks"))
