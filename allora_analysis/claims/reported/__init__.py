"""The paper's tables and figures as typed data, transcribed once here and once more in the tests.

Nothing is corrected: where the text at hand (an OCR of the submission) is damaged, the comment beside the number says
what it reads and why the number kept is the printed one. Percent and percentage points throughout; None where the
source shows no number. `tests/test_reported.py` compares every cell with a second transcription.

`table_1` … `table_4` and `figures` hold what the paper prints, `sources` what it is compared with (label counts, model
sizes), `cells` the types.
"""

from allora_analysis.claims.reported.cells import (
    Architecture,
    Cell,
    CommonsenseRow,
    DropoutColumn,
    GapRow,
    LabelCounts,
    Panel,
)
from allora_analysis.claims.reported.figures import FIGURE_3, FIGURE_4
from allora_analysis.claims.reported.sources import (
    ADAPTED_MODULES,
    ADAPTED_MODULES_SOURCE,
    ARCHITECTURES,
    COMMONSENSE_LABELS,
    PERCEPTION_LABELS,
)
from allora_analysis.claims.reported.table_1 import DORA_PUBLISHED, DORA_SOURCE, TABLE_1, TASKS
from allora_analysis.claims.reported.table_2 import TABLE_2
from allora_analysis.claims.reported.table_3 import COLUMNS_3, ETA_SQUARED, TABLE_3
from allora_analysis.claims.reported.table_4 import COLUMNS_4, TABLE_4

__all__ = [
    "ADAPTED_MODULES",
    "ADAPTED_MODULES_SOURCE",
    "ARCHITECTURES",
    "COLUMNS_3",
    "COLUMNS_4",
    "COMMONSENSE_LABELS",
    "DORA_PUBLISHED",
    "DORA_SOURCE",
    "ETA_SQUARED",
    "FIGURE_3",
    "FIGURE_4",
    "PERCEPTION_LABELS",
    "TABLE_1",
    "TABLE_2",
    "TABLE_3",
    "TABLE_4",
    "TASKS",
    "Architecture",
    "Cell",
    "CommonsenseRow",
    "DropoutColumn",
    "GapRow",
    "LabelCounts",
    "Panel",
]
