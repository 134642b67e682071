"""Table 2: accuracy by dropout rate after short and long fine-tuning (Appendix B; Figure 2 left)."""

from __future__ import annotations

from allora_analysis.claims.reported.cells import DropoutColumn

TABLE_2 = (
    DropoutColumn(0.0, 77.92, 78.00, 79.81, 6),
    DropoutColumn(0.05, 77.96, 79.95, 80.27, 8),
    DropoutColumn(0.1, 77.68, 80.50, 80.54, 8),
    DropoutColumn(0.2, 77.44, 80.77, 80.78, 9),
    DropoutColumn(0.4, 77.22, 80.65, 80.65, 10),
)
